"""The passes that every method is made of: forward, input gradient, layer gradients; in micro-batches.

They work inside no_grad, inference_mode and autocast alike, and leave the model, its gradients and the
random state as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, NotFoundError
from phosphene.graph import LinearHead, spatial_map
from phosphene.hooks import Rule, capture, capture_input, relu_rule
from phosphene.runtime.fusion import gated_rule, loose_kinks
from phosphene.runtime.micro_batches import Result, forward_size, in_batches
from phosphene.runtime.precision import Precision, compute_dtype, whole_float32
from phosphene.runtime.prepare import Prepared, prepare
from phosphene.runtime.shared import is_shared, once
from phosphene.types import Score, Target, Unit

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LayerPass:
    """What one forward and backward pass gave at the layers: per layer (N, ...) on the device.

    Args:
        logits: (N, K).
        score: (N,) of the target.
        activations: per layer, its output.
        gradients: per layer, d score / d output.
    """

    logits: Tensor
    score: Tensor
    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class _Record:
    """A forward pass of one batch, recorded from a layer on: any score can still be brought back to there.

    Args:
        span: first image of the batch, and the one behind its last.
        logits: (N, K), with their graph.
        output: of the layer, where the graph begins.
    """

    span: tuple[int, int]
    logits: Tensor
    output: Tensor


@contextmanager
def plain_mode(
    device: torch.device, *, gradients: bool, precision: Precision = "exact", loose: bool = False
) -> Iterator[None]:
    """Whatever context the caller is in: no autocast, no inference mode, gradients as said; `fast` is bfloat16.

    Args:
        device: where the network is.
        gradients: whether they are recorded.
        precision: "exact" or "fast".
        loose: whether the gradient may be that of the folded network, which differs at the kinks of ReLUs.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(whole_float32(precision))
        dtype = compute_dtype(precision, device)
        enabled = dtype != torch.float32
        stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled))
        if loose:
            stack.enter_context(loose_kinks())
        yield


def _in_batches(
    run: Callable[[int, int], Result], prepared: Prepared, images: Tensor, batch_size: int | None
) -> list[Result]:
    return in_batches(run, len(images), batch_size, prepared.device, images.shape[1:])


def forward(
    classifier: Classifier, images: Tensor, *, batch_size: int | None = None, progress: Progress | None = None
) -> Tensor:
    """(N, K) logits of images (N, C, H, W) in [0, 1], without gradients."""
    prepared = prepare(classifier)
    prepared.check_images(images)
    recorded = _shared_records(prepared, images, batch_size)
    if recorded is not None:
        return torch.cat([record.logits.detach().float() for record in recorded[1]])

    def run(start: int, stop: int) -> Tensor:
        rows = prepared.logits(ready(prepared, images[start:stop])).float()
        if progress is not None:
            progress(stop, len(images))
        return rows

    with plain_mode(prepared.device, gradients=False, precision=prepared.precision):
        return torch.cat(_in_batches(run, prepared, images, forward_size(batch_size, prepared.device)))


def activations(
    classifier: Classifier, images: Tensor, layers: Sequence[str], *, batch_size: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """(logits, outputs of the layers) of images (N, C, H, W), without gradients."""
    prepared = prepare(classifier, keep=layers)
    prepared.check_images(images)

    def run(start: int, stop: int) -> tuple[Tensor, dict[str, Tensor]]:
        with capture(prepared.module, layers) as found:
            logits = prepared.logits(ready(prepared, images[start:stop])).float()
        return logits, {name: found[name].float() for name in layers}

    with plain_mode(prepared.device, gradients=False, precision=prepared.precision):
        logits, parts = zip(*_in_batches(run, prepared, images, batch_size), strict=True)
    return torch.cat(logits), {name: torch.cat([part[name] for part in parts]) for name in layers}


def head_features(
    classifier: Classifier, images: Tensor, *, batch_size: int | None = None
) -> tuple[Tensor, Tensor, LinearHead]:
    """(logits (N, K), features (N, k, h, w) that the linear head averages, the head), without gradients.

    Raises:
        ModelError: if the network cannot be traced or does not end in pooling and one linear layer.
    """
    prepared = prepare(classifier)
    prepared.check_images(images)
    graph, head = prepared.linear_head
    recorded = _shared_records(prepared, images, batch_size)
    if recorded is not None and recorded[0] == head.layer:
        outputs = [record.output.detach().float() for record in recorded[1]]
        return torch.cat([record.logits.detach().float() for record in recorded[1]]), torch.cat(outputs), head

    def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
        output, value = prepared.run(graph, ready(prepared, images[start:stop]))
        return prepared.read(output).float(), value.float()

    with plain_mode(prepared.device, gradients=False, precision=prepared.precision):
        parts = _in_batches(run, prepared, images, forward_size(batch_size, prepared.device))
    logits, features = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(features), head


def input_gradient(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    score: Score = "logit",
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(score (N,), gradient (N, C, H, W)) of the target's score with respect to the images in [0, 1]."""
    prepared = prepare(classifier, keep=unit_layers(target))
    prepared.check_images(images)
    target = target.expand(len(images))
    key = ("input", prepared, target, score, batch_size)
    return once(images, key, lambda: _input_gradient(prepared, images, target, score, batch_size))


def _input_gradient(
    prepared: Prepared, images: Tensor, target: Target, score: Score, batch_size: int | None
) -> tuple[Tensor, Tensor]:
    def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
        inputs = ready(prepared, images[start:stop]).requires_grad_()
        _, values = scored(prepared, inputs, target.rows(start, stop), score)
        if not values.requires_grad:
            raise ModelError(
                f"no gradient reaches the pictures: {prepared.name} cuts it off (no_grad, detach, rounding or "
                "integer weights in its forward); use a method without gradients: occlusion or rise"
            )
        (gradient,) = torch.autograd.grad(values.sum(), inputs, allow_unused=True)
        return values.detach().float(), torch.zeros_like(inputs) if gradient is None else gradient

    with plain_mode(prepared.device, gradients=True, precision=prepared.precision):
        scores, gradients = zip(*_in_batches(run, prepared, images, batch_size), strict=True)
    return torch.cat(scores), joined(gradients)


def rule_gradient(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    rule: Rule,
    *,
    gated: bool = False,
    to: str | None = None,
    score: Score = "logit",
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(score (N,), gradient (N, ...)) where ReLUs pass back by `rule`, at the images or at the input of layer `to`.

    A `gated` rule passes back nothing where the gradient does not; its last bits may be others than those of the
    network as written. A rule that opens what a ReLU had closed makes sums so long that their order shows.

    Raises:
        ModelError: for an activation that no rule covers, or a score that does not depend on that layer.
    """
    prepared = prepare(classifier, keep=(*unit_layers(target), *([] if to is None else [to])))
    prepared.check_images(images)
    _refuse_compiled(prepared.module)
    target = target.expand(len(images))

    def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
        inputs = ready(prepared, images[start:stop]).requires_grad_(to is None)
        start_of_graph = nullcontext({"": inputs}) if to is None else capture_input(prepared.module, to, _as_leaf)
        way = gated_rule() if gated else nullcontext()
        with relu_rule(rule) as check, start_of_graph as found, way:
            _, values = scored(prepared, inputs, target.rows(start, stop), score)
            check(values)
            return values.detach().float(), _gradient_at(values, found, to)

    with plain_mode(prepared.device, gradients=True, precision=prepared.precision):
        scores, gradients = zip(*_in_batches(run, prepared, images, batch_size), strict=True)
    return torch.cat(scores), joined(gradients)


def _refuse_compiled(module: nn.Module) -> None:
    for name, child in module.named_modules():
        if hasattr(child, "_orig_mod"):
            raise ModelError(
                f"layer '{name}' is compiled, where no ReLU rule reaches; pass the module it was made of (._orig_mod)"
            )


def _as_leaf(_name: str, value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()


def _gradient_at(values: Tensor, found: dict[str, Tensor], layer: str | None) -> Tensor:
    leaf = found.get(layer or "")
    if leaf is not None and values.requires_grad:
        (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
        if gradient is not None:
            return gradient
    if leaf is None or layer is not None:
        raise ModelError(f"what is explained does not depend on the input of layer {layer}; name a layer before it")
    return torch.zeros_like(leaf)


def layer_gradients(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    layers: Sequence[str],
    *,
    score: Score = "logit",
    batch_size: int | None = None,
) -> LayerPass:
    """Outputs of the layers and the gradients of the score there; nothing is computed backward below the layers."""
    prepared = prepare(classifier, keep=(*layers, *unit_layers(target)))
    prepared.check_images(images)
    target = target.expand(len(images))
    key = ("layers", prepared, target, tuple(layers), score, batch_size)
    return once(images, key, lambda: _layer_gradients(prepared, images, target, layers, score, batch_size))


def _layer_gradients(
    prepared: Prepared, images: Tensor, target: Target, layers: Sequence[str], score: Score, batch_size: int | None
) -> LayerPass:
    recorded = None if target.unit is not None else _shared_records(prepared, images, batch_size)
    if recorded is not None and list(layers) == [recorded[0]]:
        parts = [_read_back(prepared, recorded[0], record, target, score) for record in recorded[1]]
    else:

        def run(start: int, stop: int) -> LayerPass:
            return _layer_pass(prepared, images[start:stop], target.rows(start, stop), layers, score)

        parts = _in_batches(run, prepared, images, batch_size)
    return LayerPass(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.score for part in parts]),
        {name: torch.cat([part.activations[name] for part in parts]) for name in layers},
        {name: torch.cat([part.gradients[name] for part in parts]) for name in layers},
    )


def joined(parts: Sequence[Tensor]) -> Tensor:
    """(N, ...) in float32: the batches' values one behind the other, contiguous, whatever layout each has."""
    # One copy: torch.cat would make another in the parts' layout, slowly for a few channels last.
    size = (sum(map(len, parts)), *parts[0].shape[1:])
    whole, start = torch.empty(size, dtype=torch.float32, device=parts[0].device), 0
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    return whole


def _layer_pass(prepared: Prepared, images: Tensor, target: Target, layers: Sequence[str], score: Score) -> LayerPass:
    with plain_mode(prepared.device, gradients=True, precision=prepared.precision):
        # The whole way up is then run as written: what a ReLU above the layers sees has the original's last bits.
        inputs = ready(prepared, images).requires_grad_(_kinks_above(prepared, layers))
        with capture(prepared.module, layers, edit=_start_of_graph) as found:
            logits, values = scored(prepared, inputs, target, score)
        return _brought_back(logits, values, {name: found[name] for name in layers})


def _brought_back(logits: Tensor, values: Tensor, outputs: dict[str, Tensor], *, again: bool = False) -> LayerPass:
    """Gradients of the scores at the outputs; with `again` the graph is kept for further scores."""
    if values.requires_grad:
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            values.sum(), list(outputs.values()), allow_unused=True, retain_graph=again
        )
    else:
        found = (None,) * len(outputs)
    gradients = zip(outputs.items(), found, strict=True)
    return LayerPass(
        logits.detach().float(),
        values.detach().float(),
        {name: output.detach().float() for name, output in outputs.items()},
        {
            name: (torch.zeros_like(output) if gradient is None else gradient).float()
            for (name, output), gradient in gradients
        },
    )


def _shared_records(prepared: Prepared, images: Tensor, batch_size: int | None) -> tuple[str, list[_Record]] | None:
    """(default layer, a record of each micro-batch) of images whose passes are shared.

    None where there is no such layer, or where an exact gradient there asks for a pass as written from the image on.
    """
    if not is_shared(images):
        return None
    layer = once(images, ("default layer", prepared), lambda: _recordable_layer(prepared))
    if layer is None:
        return None
    key = ("records", prepared, batch_size)
    return layer, once(images, key, lambda: _records(prepared, images, layer, batch_size))


def _recordable_layer(prepared: Prepared) -> str | None:
    try:
        layer = prepared.default_layer
    except (ModelError, RuntimeError):  # whatever it is, the pass itself will say so better
        return None
    once_only = any(found.name == layer and found.calls == 1 for found in prepared.layers)
    return layer if once_only and not _kinks_above(prepared, [layer]) else None


def _records(prepared: Prepared, images: Tensor, layer: str, batch_size: int | None) -> list[_Record]:
    def run(start: int, stop: int) -> _Record:
        with capture(prepared.module, [layer], edit=_start_of_graph) as found:
            logits = prepared.logits(ready(prepared, images[start:stop]))
        return _Record((start, stop), logits, found[layer])

    with plain_mode(prepared.device, gradients=True, precision=prepared.precision):
        return _in_batches(run, prepared, images, batch_size)


def _read_back(prepared: Prepared, layer: str, record: _Record, target: Target, score: Score) -> LayerPass:
    with plain_mode(prepared.device, gradients=True, precision=prepared.precision):
        values = prepared.score(record.logits.float(), target.rows(*record.span), score)
        return _brought_back(record.logits, values, {layer: record.output}, again=True)


def _kinks_above(prepared: Prepared, layers: Sequence[str]) -> bool:
    """Whether a ReLU runs above the lowest of the layers, so that an exact gradient depends on its last bits."""
    if prepared.precision != "exact":
        return False
    order = {layer.name: layer.order for layer in prepared.layers}
    lowest = min((order.get(name, -1) for name in layers), default=-1)
    return any(layer.kind in ("ReLU", "ReLU6", "Hardtanh") and layer.order > lowest for layer in prepared.layers)


def _start_of_graph(_name: str, output: Tensor) -> Tensor:
    """The first layer on the way becomes a leaf, so that nothing below it is recorded; later ones stay linked."""
    return output if output.requires_grad else output.detach().requires_grad_()


def scored(prepared: Prepared, inputs: Tensor, target: Target, score: Score) -> tuple[Tensor, Tensor]:
    """(logits, score (N,)) of one batch, with the graph to differentiate; the score is of a class or of a unit."""
    if target.unit is None:
        logits = prepared.logits(inputs)
        return logits, prepared.score(logits.float(), target, score)
    with capture(prepared.module, [target.unit.layer]) as found:
        logits = prepared.logits(inputs)
    return logits, unit_score(found[target.unit.layer], target.unit, inputs)


def unit_score(output: Tensor, unit: Unit, images: Tensor) -> Tensor:
    """(N,) activation of a unit in a layer's output: (N, C), or anything with places (`spatial_map`).

    A channel without a place counts as its mean over places; a whole layer as half its sum of squares, whose
    gradient is the layer's own activation.
    """
    if unit.channel is None:
        return 0.5 * output.float().square().flatten(1).sum(dim=1)
    values = output if output.ndim == 2 else spatial_map(output, f"the output of layer {unit.layer}", images)
    if not 0 <= unit.channel < values.shape[1]:
        raise _no_such_unit(unit, output)
    values = values[:, unit.channel].float()
    if unit.place is None:
        return values.reshape(len(values), -1).mean(dim=1)
    row, column = unit.place
    if values.ndim != 3 or not (0 <= row < values.shape[1] and 0 <= column < values.shape[2]):
        raise _no_such_unit(unit, output)
    return values[:, row, column]


def _no_such_unit(unit: Unit, output: Tensor) -> NotFoundError:
    return NotFoundError(f"no unit {unit}: the output of {unit.layer} for one image is {tuple(output.shape[1:])}")


def unit_layers(target: Target) -> tuple[str, ...]:
    """The layers that have to be watched for a target."""
    return () if target.unit is None else (target.unit.layer,)


def ready(prepared: Prepared, images: Tensor) -> Tensor:
    """Images on the network's device as a plain float tensor of their own, in the fastest memory format."""
    given = images.detach().to(prepared.device, torch.float32)
    ready = torch.empty_like(given, memory_format=torch.channels_last)
    # In the order of what is written: the other way round it takes half as long again.
    ready.permute(0, 2, 3, 1).copy_(given.permute(0, 2, 3, 1))
    return ready
