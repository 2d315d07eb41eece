"""Passes that bring back relevance or look at attention, on the network as it was written, one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from phosphene.attention import watch_attention
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, OptionError, PhospheneError
from phosphene.graph import check_inside
from phosphene.hooks import capture, is_scripted
from phosphene.relevance import Composite, propagating
from phosphene.runtime.backward import gradients, no_gradient
from phosphene.runtime.passes import unit_layers, unit_score
from phosphene.runtime.prepare import Prepared, prepare
from phosphene.types import Target

Result = TypeVar("Result")


@dataclass(frozen=True)
class Relevance:
    """What came back of a score.

    Args:
        score: (N,).
        values: (N, C, H, W) relevance of the normalized pixels.
        lost: (N,) relevance that biases, stabilizers and rules took on the way; what the pixels have and this add up to
            the score.
    """

    score: Tensor
    values: Tensor
    lost: Tensor


@dataclass(frozen=True)
class Attention:
    """The attention of one image and how the score hangs on it.

    Args:
        score: (1,).
        weights: of each layer, (heads, T, T).
        gradients: of the score with respect to them.
    """

    score: Tensor
    weights: list[Tensor]
    gradients: list[Tensor]


def relevance(classifier: Classifier, images: Tensor, target: Target, composite: Composite) -> Relevance:
    """The relevance of every pixel of images (N, C, H, W) for a target's score, by the rules of a composite.

    Raises:
        ModelError: for a step that has no rule, by name and layer.
        OptionError: for a probability, which is no sum of shares.
    """

    def one(prepared: Prepared, image: Tensor, own: Target) -> tuple[Tensor, Tensor, Tensor]:
        inputs = prepared.preprocess.normalize(prepared.ready(image).contiguous()).requires_grad_()
        with propagating(composite) as pass_:
            output, score, start = _scored(prepared, inputs, own)
        if not output.requires_grad:
            raise no_gradient(prepared)
        pass_.check(output)
        (found,) = torch.autograd.grad(output, inputs, start)
        lost = torch.stack(pass_.lost).sum() if pass_.lost else found.new_zeros(())
        return score, found, lost[None]

    parts = _one_by_one(one, classifier, images, target, "relevance")
    return Relevance(*(torch.cat([part[place] for part in parts]) for place in range(3)))


def attention(classifier: Classifier, images: Tensor, target: Target) -> list[Attention]:
    """The attention of each image, layer by layer, with the gradients of a target's score.

    Raises:
        ModelError: for a network without self-attention, or whose attention is not over all tokens of an image.
    """

    def one(prepared: Prepared, image: Tensor, own: Target) -> Attention:
        inputs = prepared.preprocess.normalize(prepared.ready(image).contiguous()).requires_grad_()
        with watch_attention() as found:
            output, score, _ = _scored(prepared, inputs, own, differentiable=True)
        if not output.requires_grad:
            raise no_gradient(prepared)
        weights = [one.unsqueeze(0) if one.ndim == 3 else one for one in found]
        _check_attention(prepared, weights)
        slopes = gradients(prepared, score, found)
        return Attention(
            score.detach(),
            [one[0].detach().float() for one in weights],
            [
                torch.zeros_like(one[0]) if slope is None else slope.reshape(one.shape)[0].float()
                for one, slope in zip(weights, slopes, strict=True)
            ],
        )

    return _one_by_one(one, classifier, images, target, "attention")


def _one_by_one(
    run: Callable[[Prepared, Tensor, Target], Result], classifier: Classifier, images: Tensor, target: Target, what: str
) -> list[Result]:
    prepared = prepare(classifier, keep=unit_layers(target)).variant("maps", "exact")
    prepared.check_images(images)
    check_inside(prepared.network.module, prepared.name)
    if any(map(is_scripted, prepared.network.module.modules())):
        raise ModelError(
            f"{prepared.name} is TorchScript, inside of which no {what} can be followed; pass the network as Python code"
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


def _scored(
    prepared: Prepared, inputs: Tensor, target: Target, *, differentiable: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """(what the network or the unit's layer gave, score (1,), relevance that starts there) of normalized inputs.

    What starts is each output times the slope of the score there: of a logit the logit itself.
    """
    if target.score == "probability" and not differentiable:
        raise OptionError("relevance is shared out of a score, and of no probability; use score logit")
    module = prepared.network.module
    if target.unit is None:
        with prepared.clear_refusal(inputs):
            output = prepared.rows(module(inputs.to(prepared.dtype)), 1)
    else:
        with capture(module, [target.unit.layer]) as found:
            module(inputs.to(prepared.dtype))
        output = found[target.unit.layer]
    with torch._C.DisableTorchFunction():
        leaf = output if differentiable else output.detach().requires_grad_()
        if target.unit is None:
            score = prepared.score(prepared.read(leaf, 1).float(), target, "logit")
        else:
            score = unit_score(leaf, target.unit, inputs, prepared.layout(target.unit.layer))
        if differentiable:
            return output, score, score
        (slope,) = torch.autograd.grad(score.sum(), leaf)
    return output, score.detach(), slope * leaf.detach()


def _check_attention(prepared: Prepared, weights: list[Tensor]) -> None:
    if not weights:
        raise ModelError(
            f"{prepared.name} has no layers of self-attention that could be seen; use grad_cam, or lrp for a "
            "convolutional network"
        )
    shapes = {tuple(one.shape[::2]) for one in weights}  # (rows, T)
    if len(shapes) > 1 or next(iter(shapes))[0] != 1:
        listing = ", ".join(f"{rows} x {tokens} tokens" for rows, tokens in sorted(shapes))
        raise ModelError(
            f"the attention of {prepared.name} is not over all tokens of an image in every layer ({listing}), as that "
            "of windows or of pooled tokens: it cannot be rolled out; use grad_cam or attn_lrp"
        )
