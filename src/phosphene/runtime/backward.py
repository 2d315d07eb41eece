"""Gradients of scores, however the network was written, or one line that says why there are none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phosphene.errors import ModelError, PhospheneError
from phosphene.graph import check_inside
from phosphene.runtime.micro_batches import is_want_of_memory
from phosphene.runtime.norms import right_norms
from phosphene.runtime.prepare import Prepared


def gradients(
    prepared: Prepared, values: Tensor, inputs: Sequence[Tensor], *, again: bool = False
) -> tuple[Tensor | None, ...]:
    """The gradient of sum(values) at each input; None where the values do not depend on it.

    Args:
        prepared: the network that made the values.
        values: scores.
        inputs: tensors on the way to them.
        again: whether the graph is kept for further scores.

    Raises:
        ModelError: if the network cuts gradients off, or cannot take them.
    """
    inside = ModelError(
        f"{prepared.name} runs this layer inside a checkpoint with use_reentrant=True, where it is run anew on the way "
        "back; name a layer outside, or use use_reentrant=False"
    )
    if not values.requires_grad:
        if prepared.first_look.reentrant:
            raise inside
        if not prepared.first_look.differentiable:
            raise no_gradient(prepared)
        return (None,) * len(inputs)
    try:
        with right_norms(values):
            if prepared.first_look.reentrant:
                found = _through_checkpoints(values, inputs, again)
            else:
                found = torch.autograd.grad(values.sum(), list(inputs), allow_unused=True, retain_graph=again)
    except Exception as error:  # code of the network's own runs on the way back
        if isinstance(error, PhospheneError) or is_want_of_memory(error):
            raise
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        what = f"checkpointing inside it: {reason}" if "heckpoint" in str(error) else reason
        raise ModelError(
            f"{prepared.name} has no gradient here ({what}); use another layer or a method without gradients: "
            "occlusion or rise"
        ) from error
    if prepared.first_look.integers and not any(gradient is not None and bool(gradient.any()) for gradient in found):
        raise no_gradient(prepared)
    if prepared.first_look.reentrant and any(gradient is None for gradient in found):
        raise inside
    return tuple(found)


def _through_checkpoints(values: Tensor, inputs: Sequence[Tensor], again: bool) -> tuple[Tensor | None, ...]:
    """As `torch.autograd.grad`, which a reentrant checkpoint refuses; weights have no gradients, so none are left."""
    for value in inputs:
        value.retain_grad()
    values.sum().backward(retain_graph=again)  # type: ignore[no-untyped-call]
    found = tuple(value.grad for value in inputs)
    for value in inputs:
        value.grad = None
    return found


def no_gradient(prepared: Prepared) -> ModelError:
    """Why no gradient reaches the pictures, in one line."""
    check_inside(prepared.network.module, prepared.name, "gradient")
    whole = prepared.first_look.integers
    why = "(no_grad, detach, rounding or integer weights in its forward)" if whole is None else f"in {whole}"
    return ModelError(
        f"no gradient reaches the pictures: {prepared.name} cuts it off {why}; "
        "use a method without gradients: occlusion or rise"
    )
