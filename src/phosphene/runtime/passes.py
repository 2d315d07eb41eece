"""The passes that every method is made of: forward, input gradient, layer gradients; in micro-batches.

They work inside no_grad, inference_mode and autocast alike, and leave the model, its gradients and the
random state as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.graph import LinearHead, spatial_map
from phosphene.hooks import ReluRule, capture, capture_input, relu_rule
from phosphene.runtime.backward import gradients, no_gradient
from phosphene.runtime.micro_batches import forward_size
from phosphene.runtime.prepare import Prepared, prepare
from phosphene.targets import Outputs, Target
from phosphene.types import Score

Progress = Callable[[int, int], None]

# Candidates that one pass looks at: more would have to be recorded from further down.
_AT_ONCE = 8


@dataclass(frozen=True)
class LayerPass:
    """What one forward and backward pass gave at the layers: per layer (N, ...) on the device.

    Args:
        score: (N,) of the target.
        activations: per layer, its output.
        gradients: per layer, d score / d output.
    """

    score: Tensor
    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class _Record:
    """A forward pass of one batch, recorded from a layer on: any score can still be brought back to there.

    Args:
        span: first image of the batch, and the one behind its last.
        outputs: of the network, with their graph.
        start: the output of the layer, where the graph begins.
    """

    span: tuple[int, int]
    outputs: Outputs
    start: Tensor


def forward(
    classifier: Classifier, images: Tensor, *, batch_size: int | None = None, progress: Progress | None = None
) -> Tensor:
    """(N, K) logits of images (N, C, H, W) in [0, 1], without gradients."""
    prepared = prepare(classifier)
    prepared.check_images(images)
    recorded = _shared_records(prepared, images, batch_size)
    if recorded is not None:
        return _recorded_logits(prepared, recorded[1])

    def run(start: int, stop: int) -> Tensor:
        return prepared.logits(prepared.ready(images[start:stop])).float()

    def done(stop: int) -> None:
        if progress is not None:
            progress(stop, len(images))

    with prepared.passing(gradients=False):
        size = forward_size(batch_size, prepared.device)
        return torch.cat(prepared.in_batches(run, len(images), size, images.shape[1:], done=done))


def activations(
    classifier: Classifier, images: Tensor, layers: Sequence[str], *, batch_size: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """(logits, outputs of the layers) of images (N, C, H, W), without gradients."""
    prepared = prepare(classifier, keep=layers)
    prepared.check_images(images)

    def run(start: int, stop: int) -> tuple[Tensor, dict[str, Tensor]]:
        with capture(prepared.module, layers) as found:
            logits = prepared.logits(prepared.ready(images[start:stop])).float()
        return logits, {name: found[name].float() for name in layers}

    with prepared.passing(gradients=False):
        logits, parts = zip(*prepared.in_batches(run, len(images), batch_size, images.shape[1:]), strict=True)
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
        features = torch.cat([record.start.detach().float() for record in recorded[1]])
        return _recorded_logits(prepared, recorded[1]), features, head

    def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
        output, value = prepared.run(graph, prepared.ready(images[start:stop]))
        return prepared.read(output, stop - start).float(), value.float()

    with prepared.passing(gradients=False):
        parts = prepared.in_batches(run, len(images), forward_size(batch_size, prepared.device), images.shape[1:])
    logits, values = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(values), head


def input_gradient(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    score: Score = "logit",
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(score (N,), gradient (N, C, H, W)) of the target's score with respect to the images in [0, 1]."""
    prepared = prepare(classifier, keep=target.layers)
    prepared.check_images(images)
    target = target.expand(len(images))
    key = ("input", target, score, batch_size)
    return prepared.once(images, key, lambda: _input_gradient(prepared, images, target, score, batch_size))


def _input_gradient(
    prepared: Prepared, images: Tensor, target: Target, score: Score, batch_size: int | None
) -> tuple[Tensor, Tensor]:
    def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
        inputs = prepared.ready(images[start:stop]).requires_grad_()
        values = scored(prepared, inputs, target.rows(start, stop), score)
        if not values.requires_grad:
            raise no_gradient(prepared)
        (gradient,) = gradients(prepared, values, [inputs])
        return values.detach().float(), torch.zeros_like(inputs) if gradient is None else gradient

    with prepared.passing(gradients=True):
        scores, found = zip(*prepared.in_batches(run, len(images), batch_size, images.shape[1:]), strict=True)
    return torch.cat(scores), joined(found)


def rule_gradient(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    rule: ReluRule,
    *,
    to: str | None = None,
    score: Score = "logit",
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(score (N,), gradient (N, ...)) where ReLUs pass back by `rule`, at the images or at the input of layer `to`.

    Raises:
        ModelError: for an activation that no rule covers, or a score that does not depend on that layer.
    """
    prepared = prepare(classifier, keep=(*target.layers, *([] if to is None else [to])))
    prepared.check_images(images)
    target = target.expand(len(images))

    def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
        inputs = prepared.ready(images[start:stop]).requires_grad_(to is None or prepared.first_look.whole)
        start_of_graph = (
            nullcontext({"": inputs}) if to is None else capture_input(prepared.module, to, _start_of_graph)
        )
        with relu_rule(rule) as check, start_of_graph as found:
            values = scored(prepared, inputs, target.rows(start, stop), score)
            check(values)
            return values.detach().float(), _gradient_at(prepared, values, found, to)

    with prepared.passing(gradients=True):
        scores, found = zip(*prepared.in_batches(run, len(images), batch_size, images.shape[1:]), strict=True)
    return torch.cat(scores), joined(found)


def _gradient_at(prepared: Prepared, values: Tensor, found: dict[str, Tensor], layer: str | None) -> Tensor:
    leaf = found.get(layer or "")
    if leaf is not None:
        (gradient,) = gradients(prepared, values, [leaf])
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
    prepared = prepare(classifier, keep=(*layers, *target.layers))
    prepared.check_images(images)
    target = target.expand(len(images))
    key = ("layers", target, tuple(layers), score, batch_size)
    return prepared.once(images, key, lambda: _layer_gradients(prepared, images, target, layers, score, batch_size))


def last_layer_reached(classifier: Classifier, images: Tensor, target: Target) -> str:
    """The last layer with places at which the score of each image sees a change at several of them.

    The classifier's default layer where there is none: nothing was found, say.
    """
    prepared = prepare(classifier)
    key = ("last layer reached", target)
    return prepared.once(images, key, lambda: _last_layer_reached(prepared, images, target.expand(len(images))))


def _last_layer_reached(prepared: Prepared, images: Tensor, target: Target) -> str:
    candidates = prepared.candidate_layers
    for first in range(0, len(candidates), _AT_ONCE):
        left = candidates[first : first + _AT_ONCE]
        for index in range(len(images)):
            one = slice(index, index + 1)
            if left:
                found = layer_gradients(prepared, images[one], target.rows(index, index + 1), left).gradients
                left = [layer for layer in left if _sees_places(found[layer], layer, images[one], prepared)]
        if left:
            return left[0]
    return prepared.default_layer


def _sees_places(gradient: Tensor, layer: str, image: Tensor, prepared: Prepared) -> bool:
    """Whether there is a gradient at several places of a layer that gives one map for an image."""
    if len(gradient) != 1:
        return False
    return int(spatial_map(gradient, f"layer {layer}", image, prepared.layout(layer)).any(dim=1).sum()) > 1


def layer_values(
    classifier: Classifier, images: Tensor, target: Target, layers: Sequence[str], *, batch_size: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """(score (N,), outputs of the layers) without gradients, which the network need not have."""
    prepared = prepare(classifier, keep=(*layers, *target.layers))
    prepared.check_images(images)
    target = target.expand(len(images))
    recorded = None if target.layers else _shared_records(prepared, images, batch_size)
    if recorded is not None and list(layers) == [recorded[0]]:
        outputs = torch.cat([record.start.detach().float() for record in recorded[1]])
        known = [target.rows(*record.span).scores(record.outputs, "logit").detach() for record in recorded[1]]
        return torch.cat(known).float(), {recorded[0]: outputs}

    def run(start: int, stop: int) -> tuple[Tensor, dict[str, Tensor]]:
        with capture(prepared.module, layers) as found:
            values = scored(prepared, prepared.ready(images[start:stop]), target.rows(start, stop), "logit")
        return values.float(), {name: found[name].float() for name in layers}

    with prepared.passing(gradients=False):
        scores, parts = zip(*prepared.in_batches(run, len(images), batch_size, images.shape[1:]), strict=True)
    return torch.cat(scores), {name: torch.cat([part[name] for part in parts]) for name in layers}


def _layer_gradients(
    prepared: Prepared, images: Tensor, target: Target, layers: Sequence[str], score: Score, batch_size: int | None
) -> LayerPass:
    recorded = None if target.layers else _shared_records(prepared, images, batch_size)
    if recorded is not None and list(layers) == [recorded[0]]:
        parts = [_read_back(prepared, recorded[0], record, target, score) for record in recorded[1]]
    else:

        def run(start: int, stop: int) -> LayerPass:
            return _layer_pass(prepared, images[start:stop], target.rows(start, stop), layers, score)

        with prepared.passing(gradients=True):
            parts = prepared.in_batches(
                run, len(images), batch_size, images.shape[1:], lambda part: (part.score, part.gradients)
            )
    return LayerPass(
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
    inputs = prepared.ready(images).requires_grad_(_records_all(prepared, layers))
    with capture(prepared.module, layers, edit=_start_of_graph) as found:
        values = scored(prepared, inputs, target, score)
        # While the layers are watched: what is checkpointed runs again on the way back, and has to run alike.
        return _brought_back(prepared, values, {name: found[name] for name in layers})


def _brought_back(prepared: Prepared, values: Tensor, outputs: dict[str, Tensor], *, again: bool = False) -> LayerPass:
    """Gradients of the scores at the outputs; with `again` the graph is kept for further scores."""
    found = zip(outputs.items(), gradients(prepared, values, list(outputs.values()), again=again), strict=True)
    return LayerPass(
        values.detach().float(),
        {name: output.detach().float() for name, output in outputs.items()},
        {
            name: (torch.zeros_like(output) if gradient is None else gradient).float()
            for (name, output), gradient in found
        },
    )


def _shared_records(prepared: Prepared, images: Tensor, batch_size: int | None) -> tuple[str, list[_Record]] | None:
    """(default layer, a record of each micro-batch) of images whose passes are shared.

    None where there is no such layer, or where an exact gradient there asks for a pass as written from the image on.
    """
    if prepared.memo is None or images is not prepared.memo.images or prepared.network.moves:
        return None
    layer = prepared.once(images, "default layer", lambda: _recordable_layer(prepared))
    if layer is None:
        return None
    key = ("records", batch_size)
    return layer, prepared.once(images, key, lambda: _records(prepared, images, layer, batch_size))


def _recordable_layer(prepared: Prepared) -> str | None:
    try:
        layer = prepared.default_layer
    except (ModelError, RuntimeError):  # whatever it is, the pass itself will say so better
        return None
    once_only = any(found.name == layer and found.calls == 1 for found in prepared.layers)
    return layer if once_only and not _records_all(prepared, [layer]) else None


def _records(prepared: Prepared, images: Tensor, layer: str, batch_size: int | None) -> list[_Record]:
    def run(start: int, stop: int) -> _Record:
        with capture(prepared.module, [layer], edit=_start_of_graph) as found:
            outputs = run_network(prepared, prepared.ready(images[start:stop]))
        return _Record((start, stop), outputs, found[layer])

    with prepared.passing(gradients=True):
        return prepared.in_batches(run, len(images), batch_size, images.shape[1:], lambda made: made.outputs.logits)


def _recorded_logits(prepared: Prepared, records: Sequence[_Record]) -> Tensor:
    # Read with gradients even if none is asked for here: they are read once, and a score may be brought back later.
    with prepared.passing(gradients=True):
        return torch.cat([record.outputs.logits.detach() for record in records])


def _read_back(prepared: Prepared, layer: str, record: _Record, target: Target, score: Score) -> LayerPass:
    with prepared.passing(gradients=True):
        values = target.rows(*record.span).scores(record.outputs, score)
        return _brought_back(prepared, values, {layer: record.start}, again=True)


def _records_all(prepared: Prepared, layers: Sequence[str]) -> bool:
    """Whether the way up to the layers is recorded too.

    It is then run as written, so that what a ReLU above the layers sees has the original's last bits; and hooks that
    the network lays on what its layers give, where that has a gradient, run, and code that asks for one finds it.
    """
    if prepared.first_look.whole:
        return True
    if prepared.precision != "exact":
        return False
    order = {layer.name: layer.order for layer in prepared.layers}
    lowest = min((order.get(name, -1) for name in layers), default=-1)
    return any(layer.kind in ("ReLU", "ReLU6", "Hardtanh") and layer.order > lowest for layer in prepared.layers)


def _start_of_graph(_name: str, output: Tensor) -> Tensor:
    """The first layer on the way becomes a leaf, so that nothing below it is recorded; later ones stay linked."""
    return output if output.requires_grad or not output.is_floating_point() else output.detach().requires_grad_()


def scored(prepared: Prepared, inputs: Tensor, target: Target, score: Score, copies: int = 1) -> Tensor:
    """(N,) the target's score of each image of one batch, with the graph to differentiate."""
    return target.scores(run_network(prepared, inputs, target.layers, copies), score)


def run_network(prepared: Prepared, inputs: Tensor, layers: Sequence[str] = (), copies: int = 1) -> Outputs:
    """What the network gives for a batch of images, all that a target may look at.

    Args:
        prepared: what runs.
        inputs: (N, C, H, W) as `ready` makes them.
        layers: whose outputs are kept.
        copies: rows of scores for each image, where a layer's output is replaced by several.
    """
    with capture(prepared.module, layers) as found:
        raw = prepared.run(prepared.module, inputs)
    return Outputs(prepared, raw, copies * len(inputs), inputs, found, {name: prepared.layout(name) for name in layers})
