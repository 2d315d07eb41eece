"""The passes that every method is made of: forward, input gradient, layer gradients; in micro-batches.

They work inside no_grad, inference_mode and autocast alike, and leave the model, its gradients and the
random state as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.graph import LinearHead, spatial_map
from phosphene.runtime.backward import gradients, no_gradient
from phosphene.runtime.layer_looks import first_leaf
from phosphene.runtime.micro_batches import forward_size
from phosphene.runtime.prepare import Precision, Prepared, prepare
from phosphene.runtime.trials import near
from phosphene.targets import Outputs, Target
from phosphene.types import Score

Progress = Callable[[int, int], None]
Result = TypeVar("Result")

# Of scores, as a share: as far as two forms of one network may differ in float32, or in bfloat16.
_SAME: dict[Precision, float] = {"exact": 1e-3, "fast": 0.1}
# Or as a share of this part of the terms that they are the sums of: a score near zero has the rounding of its terms.
_TERMS = 0.1


class LayerPass(NamedTuple):
    """What one forward and backward pass gave at the layers: per layer (N, ...) on the device.

    Args:
        score: (N,) of the target.
        activations: per layer, its output.
        gradients: per layer, d score / d output.
    """

    score: Tensor
    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]


class _Record(NamedTuple):
    """A forward pass of some images, recorded from a layer's output on: any score can be brought back to there."""

    span: tuple[int, int]
    outputs: Outputs
    start: Tensor


def forward(
    classifier: Classifier, images: Tensor, *, batch_size: int | None = None, progress: Progress | None = None
) -> Tensor:
    """(N, K) logits of images (N, C, H, W) in [0, 1], without gradients."""
    prepared = prepare(classifier)
    prepared.check_images(images)
    records = _shared(prepared, images, batch_size)
    if records is not None:
        return _recorded_logits(prepared, records)

    def run(start: int, stop: int) -> Tensor:
        return prepared.logits(prepared.ready(images[start:stop]))

    size, done = forward_size(batch_size, prepared.device), copies_done(progress, 0, len(images), 1)
    return in_parts(prepared, images, run, size, gradients=False, done=done)


def activations(
    classifier: Classifier, images: Tensor, layers: Sequence[str], *, batch_size: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """(logits, outputs of the layers) of images (N, C, H, W), without gradients."""
    prepared = prepare(classifier, keep=layers)
    prepared.check_images(images)
    return _watched(prepared, images, layers, batch_size, lambda inputs, _start, _stop: prepared.logits(inputs))


def layer_values(
    classifier: Classifier, images: Tensor, target: Target, layers: Sequence[str], *, batch_size: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """(score (N,), outputs of the layers) without gradients, which the network need not have."""
    prepared, target = asked(classifier, images, target, layers)
    records = None if target.layers else _shared(prepared, images, batch_size, layers)
    if records is not None:
        known = [target.rows(*record.span).scores(record.outputs, "logit") for record in records]
        return joined(known), {layers[0]: joined([record.start for record in records])}

    def score(inputs: Tensor, start: int, stop: int) -> Tensor:
        return scored(prepared, inputs, target.rows(start, stop))

    return _watched(prepared, images, layers, batch_size, score)


def head_features(
    classifier: Classifier, images: Tensor, *, batch_size: int | None = None
) -> tuple[Tensor, Tensor, LinearHead]:
    """(logits (N, K), features (N, k, h, w) that the linear head averages, the head), without gradients.

    Raises:
        ModelError: if the network does not end in pooling and one linear layer.
    """
    prepared = prepare(classifier)
    prepared.check_images(images)
    graph, head = prepared.linear_head
    again: Tensor | None = None
    records = _shared(prepared, images, batch_size, [head.layer])
    if records is not None:
        logits, values = _recorded_logits(prepared, records), joined([record.start for record in records])
    elif graph is None:
        logits, outputs = activations(prepared, images, [head.layer], batch_size=batch_size)
        values = outputs[head.layer]
    else:

        def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
            output, (value,) = prepared.run(graph, prepared.ready(images[start:stop]))
            return prepared.read(output, stop - start), value

        logits, values = in_parts(prepared, images, run, forward_size(batch_size, prepared.device), gradients=False)
        if not (prepared.first_look.draws or prepared.first_look.seeds):
            again = forward(prepared, images[:1], batch_size=1)
    features = spatial_map(values, f"the output of {head.layer}", images, head.layout)
    means = features.mean(dim=(2, 3))
    bias = None if head.bias is None else head.bias.float()
    with torch.autocast(means.device.type, enabled=False):  # (inside of the caller's own it would be rounded)
        scores = means if head.weight is None else torch.nn.functional.linear(means, head.weight.float(), bias)
        terms = means if head.weight is None else means.abs() @ head.weight.float().abs().T
    if scores.shape[1] == 1 and logits.shape[1] == 2:  # one output read as (-z, z)
        scores = torch.cat([-scores, scores], dim=1)
    room, least = _SAME[prepared.precision], _TERMS * float(terms.nan_to_num(0, 0, 0).square().mean().sqrt())
    if again is not None and not near(logits[:1], again, room, least):
        raise ModelError(
            f"{prepared.name} gives other scores than when it was first looked at: its code reads something that "
            "changed since (a variable of the environment, an attribute of a function); call classifier.refresh()"
        )
    if not near(scores, logits, room, least):
        raise ModelError(
            f"no class activation map: the mean of {head.layer} gives other scores than {prepared.name} for these "
            "pictures; give pictures of its own size, or use grad_cam"
        )
    return logits, features, head


def input_gradient(
    classifier: Classifier, images: Tensor, target: Target, *, score: Score = "logit", batch_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """(score (N,), gradient (N, C, H, W)) of the target's score with respect to the images in [0, 1]."""
    prepared, target = asked(classifier, images, target)

    def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
        inputs = prepared.ready(images[start:stop]).requires_grad_()
        values = scored(prepared, inputs, target.rows(start, stop), score)
        if not values.requires_grad:
            raise no_gradient(prepared)
        (gradient,) = gradients(prepared, values, [inputs])
        return values.detach(), torch.zeros_like(inputs) if gradient is None else gradient

    key = ("input", target, score, batch_size)
    return prepared.once(images, key, lambda: in_parts(prepared, images, run, batch_size, gradients=True))


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
    prepared, target = asked(classifier, images, target, layers)

    def run(start: int, stop: int) -> LayerPass:
        inputs = prepared.ready(images[start:stop]).requires_grad_(_records_all(prepared, layers))
        with prepared.capture(layers, first_leaf) as found:
            values = scored(prepared, inputs, target.rows(start, stop), score)
            # While the layers are watched: what is checkpointed runs again on the way back, and has to run alike.
            return _brought_back(prepared, values, {name: found[name] for name in layers})

    def passes() -> LayerPass:
        records = None if target.layers else _shared(prepared, images, batch_size, layers)
        if records is None:
            return in_parts(prepared, images, run, batch_size, gradients=True)
        with prepared.passing(gradients=True):
            scores = [target.rows(*record.span).scores(record.outputs, score) for record in records]
            outputs = [{layers[0]: record.start} for record in records]
            return in_one([_brought_back(prepared, *part, again=True) for part in zip(scores, outputs, strict=True)])

    return prepared.once(images, ("layers", target, tuple(layers), score, batch_size), passes)


def asked(
    classifier: Classifier, images: Tensor, target: Target, layers: Sequence[str] = ()
) -> tuple[Prepared, Target]:
    """The prepared form for images (N, C, H, W), in which these layers and the target's can be watched; N targets."""
    prepared = prepare(classifier, keep=(*layers, *target.layers))
    prepared.check_images(images)
    return prepared, target.expand(len(images))


def in_parts(
    prepared: Prepared,
    images: Tensor,
    run: Callable[[int, int], Result],
    batch_size: int | None,
    *,
    gradients: bool,
    done: Callable[[int], None] | None = None,
) -> Result:
    """What `run(start, stop)` gives for each micro-batch, made one: tuples and dicts of tensors (N, ...)."""
    with prepared.passing(gradients=gradients):
        return in_one(prepared.in_batches(run, len(images), batch_size, images.shape[1:], done=done))


def copies_done(progress: Progress | None, index: int, count: int, images: int) -> Callable[[int], None]:
    """Tells, of the copies of one of several images, how many of all are done."""

    def done(stop: int) -> None:
        if progress is not None:
            progress(index * count + stop, images * count)

    return done


def in_one(parts: Sequence[Result]) -> Result:
    """Tuples and dicts of tensors, joined place by place."""
    whole: Result = tree_map(lambda *values: joined(values), *parts)
    return whole


def joined(parts: Sequence[Tensor]) -> Tensor:
    """(N, ...) in float32: the batches' values one behind the other, contiguous, whatever layout each has."""
    # One copy: torch.cat would make another in the parts' layout, slowly for a few channels last.
    size = (sum(map(len, parts)), *parts[0].shape[1:])
    whole, start = torch.empty(size, dtype=torch.float32, device=parts[0].device), 0
    for part in parts:
        whole[start : start + len(part)] = part.detach().reshape(-1, *size[1:])
        start += len(part)
    return whole


def _watched(
    prepared: Prepared,
    images: Tensor,
    layers: Sequence[str],
    batch_size: int | None,
    score: Callable[[Tensor, int, int], Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """(what `score(inputs, start, stop)` gives, outputs of the layers) without gradients."""

    def run(start: int, stop: int) -> tuple[Tensor, dict[str, Tensor]]:
        with prepared.capture(layers) as found:
            values = score(prepared.ready(images[start:stop]), start, stop)
        return values, {name: found[name] for name in layers}

    return in_parts(prepared, images, run, batch_size, gradients=False)


def _brought_back(prepared: Prepared, values: Tensor, outputs: dict[str, Tensor], *, again: bool = False) -> LayerPass:
    """Gradients of the scores at the outputs; with `again` the graph is kept for further scores."""
    found = zip(outputs.items(), gradients(prepared, values, list(outputs.values()), again=again), strict=True)
    return LayerPass(
        values.detach(),
        {name: output.detach() for name, output in outputs.items()},
        {name: torch.zeros_like(output) if gradient is None else gradient for (name, output), gradient in found},
    )


def _shared(
    prepared: Prepared, images: Tensor, batch_size: int | None, layers: Sequence[str] | None = None
) -> list[_Record] | None:
    """A record of each micro-batch from the default layer on, of images whose passes are shared.

    None where there is no such layer or others are asked for, where it may not run for each picture, or where an
    exact gradient there asks for a pass as written from the image on.
    """
    if not prepared.remembers(images):
        return None
    layer = prepared.once(images, "default layer", lambda: _recordable_layer(prepared))
    if layer is None or (layers is not None and list(layers) != [layer]):
        return None

    def run(start: int, stop: int) -> _Record:
        with prepared.capture([layer], first_leaf) as found:
            outputs = run_network(prepared, prepared.ready(images[start:stop]))
        return _Record((start, stop), outputs, found[layer])

    def records() -> list[_Record]:
        with prepared.passing(gradients=True):
            return prepared.in_batches(run, len(images), batch_size, images.shape[1:], lambda made: made.outputs.logits)

    return prepared.once(images, ("records", batch_size), records)


def _recordable_layer(prepared: Prepared) -> str | None:
    if prepared.first_look.reads:
        return None
    try:
        layer = prepared.default_layer
    except (ModelError, RuntimeError):  # whatever it is, the pass itself will say so better
        return None
    once_only = any(found.name == layer and found.calls == 1 for found in prepared.layers)
    return layer if once_only and not _records_all(prepared, [layer]) else None


def _recorded_logits(prepared: Prepared, records: Sequence[_Record]) -> Tensor:
    # Read with gradients even if none is asked for here: they are read once, and a score may be brought back later.
    with prepared.passing(gradients=True):
        return joined([record.outputs.logits for record in records])


def _records_all(prepared: Prepared, layers: Sequence[str]) -> bool:
    """Whether the way up to the layers is recorded too.

    It is then run as written, so that what a ReLU above the layers sees has the original's last bits; and hooks that
    the network lays on what its layers give, where that has a gradient, run, and code that asks for one finds it. What
    the score reads of the layers by other ways than their first output counts as well.
    """
    if prepared.first_look.whole:
        return True
    order = {layer.name: layer.order for layer in prepared.layers}
    lowest = min((order.get(name, -1) for name in layers), default=-1)
    kinks = (layer.kind in ("ReLU", "ReLU6", "Hardtanh") and layer.order > lowest for layer in prepared.layers)
    return (prepared.precision == "exact" and any(kinks)) or prepared.looks.read_around(layers)


def scored(prepared: Prepared, inputs: Tensor, target: Target, score: Score = "logit", copies: int = 1) -> Tensor:
    """(N,) the target's score of each image of one batch, with the graph to differentiate."""
    return target.scores(run_network(prepared, inputs, target.layers, copies), score)


def run_network(prepared: Prepared, inputs: Tensor, layers: Sequence[str] = (), copies: int = 1) -> Outputs:
    """What the network gives for a batch of images as `ready` makes them, all that a target may look at.

    There are several rows of scores for each image where a layer's output is replaced by several `copies`.
    """
    with prepared.capture(layers) as found:
        raw = prepared.run(prepared.module, inputs)
    return Outputs(prepared, raw, copies * len(inputs), inputs, found, {name: prepared.layout(name) for name in layers})
