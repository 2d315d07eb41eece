"""Passes that bring back relevance or look at attention, on the network as it was written, one image at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from phosphene.attention import watch_attention
from phosphene.axes import PLACES, Axes, Follow, are_channels
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, OptionError, PhospheneError
from phosphene.graph import check_inside
from phosphene.hooks import ValueHooks, is_scripted
from phosphene.relevance import Composite, propagating
from phosphene.runtime import Prepared, prepare
from phosphene.runtime.backward import gradients, no_gradient
from phosphene.targets import Outputs, Target

Result = TypeVar("Result")
# As a share of a score: by more it is another, and not rounded in another way.
_ANOTHER = 1e-2
_ROUNDED = 1e-4


@dataclass(frozen=True)
class Relevance:
    """What came back of a score.

    Args:
        score: (N,).
        values: (N, C, H, W) relevance of the normalized pixels.
        lost: (N,) relevance that biases, stabilizers and rules took on the way.
        started: (N,) relevance that started, of a logit the logit; what the pixels have and what was lost add up to it.
    """

    score: Tensor
    values: Tensor
    lost: Tensor
    started: Tensor


@dataclass(frozen=True)
class Attention:
    """The attention of one image and how the score hangs on it.

    Args:
        score: (1,).
        weights: of each layer, (heads, T, T).
        gradients: of the score with respect to them.
        around: how many tokens were put before and behind those of the image's places; None where it was not seen.
    """

    score: Tensor
    weights: list[Tensor]
    gradients: list[Tensor]
    around: tuple[int, int] | None


def relevance(classifier: Classifier, images: Tensor, target: Target, composite: Composite) -> Relevance:
    """The relevance of every pixel of images (N, C, H, W) for a target's score, by the rules of a composite.

    Raises:
        ModelError: for a step that has no rule, by name and layer.
        OptionError: for a probability, which is no sum of shares.
    """
    if target.score == "probability":
        raise OptionError("relevance is shared out of a score, and of no probability; use score logit")

    def one(prepared: Prepared, image: Tensor, own: Target) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = prepared.preprocess.normalize(prepared.ready(image).contiguous()).requires_grad_()
        with ValueHooks(aside=True), propagating(composite) as pass_:
            outputs = _outputs(prepared, inputs, own)
        score, ends, start = _start(outputs, own)
        if not ends:
            raise no_gradient(prepared)
        for end in ends:
            pass_.check(end)
        (found,) = torch.autograd.grad(ends, inputs, start)
        _refuse_another_score(prepared, inputs, own, score)
        lost = torch.stack(pass_.lost).sum() if pass_.lost else found.new_zeros(())
        return score, found, lost[None], torch.stack([one.sum() for one in start]).sum()[None]

    parts = _one_by_one(one, classifier, images, target, "relevance")
    return Relevance(*(torch.cat([part[place] for part in parts]) for place in range(4)))


def attention(classifier: Classifier, images: Tensor, target: Target) -> list[Attention]:
    """The attention of each image, layer by layer, with the gradients of a target's score.

    Raises:
        ModelError: for a network without self-attention, or whose attention is not over all tokens of an image.
    """

    def one(prepared: Prepared, image: Tensor, own: Target) -> Attention:
        inputs = prepared.preprocess.normalize(prepared.ready(image).contiguous()).requires_grad_()
        with watch_attention() as found, Follow() as follow:
            outputs = _outputs(prepared, follow.name(inputs, "NCPP"), own)
        score = own.scores(outputs, "logit")
        if not score.requires_grad:
            raise no_gradient(prepared)
        slopes = gradients(prepared, score, found) if found else ()
        # (What has none is no part of the score.)
        seen = [(one, slope) for one, slope in zip(found, slopes, strict=True) if slope is not None]
        known = [follow.axes(one) for one, _ in seen]
        weights = [_by_rows(one, axes) for (one, _), axes in zip(seen, known, strict=True)]
        _check_attention(prepared, weights, known)
        return Attention(
            score.detach(),
            [one[0].detach().float() for one in weights],
            [slope.reshape(one.shape)[0].float() for one, (_, slope) in zip(weights, seen, strict=True)],
            follow.around.get(int(weights[0].shape[-1])),
        )

    return _one_by_one(one, classifier, images, target, "attention")


def _one_by_one(
    run: Callable[[Prepared, Tensor, Target], Result], classifier: Classifier, images: Tensor, target: Target, what: str
) -> list[Result]:
    prepared = prepare(classifier, keep=target.layers).variant("maps", "exact")
    prepared.check_images(images)
    check_inside(prepared.network.module, prepared.name)
    if any(map(is_scripted, prepared.network.module.modules())):
        raise ModelError(
            f"{prepared.name} is TorchScript, where no {what} can be followed; pass the network as Python code"
        )
    target = target.expand(len(images))
    found = []
    for index in range(len(images)):
        own = target.rows(index, index + 1)
        try:
            with prepared.passing(gradients=True):
                found.append(run(prepared, images[index : index + 1], own))
        except (PhospheneError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # code of the network's own runs, forth and back
            reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
            raise ModelError(f"no {what} can be followed through {prepared.name}: {reason}") from error
    return found


def _outputs(prepared: Prepared, inputs: Tensor, target: Target) -> Outputs:
    """What the network, as it was written, gives for normalized inputs."""
    module = prepared.network.module
    running = prepared.network.running()
    with prepared.capture(target.layers, of=module) as found, prepared.clear_refusal(inputs), running:
        given = inputs.to(prepared.dtype, copy=True)  # (the network may work in place on what it is given)
        raw = prepared.called(module, given)
    layouts = {name: prepared.layout(name) for name in target.layers}
    return Outputs(prepared, raw, len(inputs), inputs, found, layouts)


def _start(outputs: Outputs, target: Target) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """(score (1,), the outputs that it hangs on, the relevance that starts in each): each value times its slope."""
    values, shape = tree_flatten((outputs.raw, dict(outputs.activations), outputs.given))
    known = [place for place, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad]
    if not known and outputs.given is None:  # an object that holds the scores, or no gradient
        return _start(replace(outputs, given=outputs.logits), target)
    leaves = list(values)
    for place in known:
        leaves[place] = values[place].detach().requires_grad_()
    raw, activations, given = tree_unflatten(leaves, shape)
    score = target.scores(replace(outputs, raw=raw, activations=activations, given=given), "logit")
    if not score.requires_grad:
        return score, [], []
    slopes = torch.autograd.grad(score.sum(), [leaves[place] for place in known], allow_unused=True)
    used = [(values[place], slope) for place, slope in zip(known, slopes, strict=True) if slope is not None]
    # (A class that is ruled out by a score of -inf has no share.)
    shares = [torch.where(slope == 0, 0, slope * value.detach()) for value, slope in used]
    return score.detach(), [value for value, _ in used], shares


def _refuse_another_score(prepared: Prepared, inputs: Tensor, target: Target, score: Tensor) -> None:
    """Refuse a network that gives another score where rules stand in for gradients: it takes some itself."""
    if prepared.first_look.draws or prepared.first_look.seeds:
        return
    outputs = _outputs(prepared, inputs, target)
    plain = target.scores(outputs, "logit").detach()
    # (A score near zero among large ones is rounded as these are.)
    room = _ANOTHER * plain.abs() + _ROUNDED * max(map(_largest, (outputs.raw, plain)))
    if bool(((score - plain).abs() > room).any()):
        raise ModelError(
            f"{prepared.name} has another score under rules of relevance ({float(score):.4g} for {float(plain):.4g}): "
            "its forward takes gradients itself, which the rules change; use saliency, integrated_gradients or grad_cam"
        )


def _largest(values: Any) -> float:
    """The largest magnitude of all finite numbers in what a network returned."""
    found = [one.detach().float() for one in tree_flatten(values)[0] if isinstance(one, Tensor) and one.numel()]
    return max((float(one.abs().nan_to_num(0.0, 0.0, 0.0).max()) for one in found), default=0.0)


def _by_rows(weights: Tensor, axes: Axes | None) -> Tensor:
    """(rows, heads, T, T): of three axes the first is that of heads, or of places, as where windows are rows."""
    if weights.ndim != 3:
        return weights
    rows = axes is not None and any(name == PLACES and length > 1 for name, length in axes[0])
    return weights.unsqueeze(1 if rows else 0)


def _check_attention(prepared: Prepared, weights: list[Tensor], known: list[Axes | None]) -> None:
    """Refuse what is not attention (1, heads, T, T) of all tokens to all tokens in every layer."""
    if not weights:
        raise ModelError(
            f"{prepared.name} has no layers of self-attention that could be seen; use grad_cam, or lrp for a "
            "convolutional network"
        )
    if any(axes is not None and are_channels(axes[-1]) for axes in known):
        raise ModelError(
            f"{prepared.name} attends to channels, not to tokens, in some layers: attention cannot be rolled out; use "
            "grad_cam or attn_lrp"
        )
    shapes = {(math.prod(one.shape[:-3]), *one.shape[-2:]) for one in weights}  # (rows, T, T)
    rows, tokens, seen = next(iter(shapes))
    if len(shapes) > 1 or rows != 1 or tokens != seen:
        listing = ", ".join(_said(*shape) for shape in sorted(shapes))
        raise ModelError(
            f"the attention of {prepared.name} is not over all tokens of an image in every layer ({listing}), as that "
            "of windows, of pooled tokens or of a class token alone: it cannot be rolled out; use grad_cam or attn_lrp"
        )


def _said(rows: int, tokens: int, seen: int) -> str:
    return f"{rows} x {tokens} tokens" if tokens == seen else f"{rows} x {tokens} tokens to {seen}"
