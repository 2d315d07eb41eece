"""What becomes of the surroundings of a drawn object: how much each place was developed, as an alpha channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.maps import blur
from phosphene.synthesis.ascent import Step
from phosphene.synthesis.step_rules import StepState
from phosphene.types import Background, Size

# Of the shorter side: sigma of the alpha's blur, and of the blur that surroundings fade into.
_SMOOTH, _FADED = 0.03, 0.12
# The share of places that counts as developed in full.
_DEVELOPED = 0.15


@dataclass
class Held:
    """What the steps of a drawing have added up to, place by place: a rule that watches and changes nothing.

    References:
        fel2023, whose transparency is the accumulated gradient.
    """

    total: Tensor | None = None

    def see(self, value: Tensor, _state: StepState) -> Tensor:
        """Note the direction (N, C, H, W) of a step, whatever the drawing's present size."""
        size = (int(value.shape[-2]), int(value.shape[-1]))
        new = value.abs().amax(dim=1, keepdim=True)
        self.total = new if self.total is None else _in_size(self.total, size) + new
        return value

    def finished(self, run: Iterator[Step], background: Background) -> Iterator[Step]:
        """The steps of a drawing, the last with its surroundings as asked for.

        A picture that is to be transparent gets `alpha` (N, 1, H, W) among its extras.
        """
        if background == "keep":
            yield from run
            return
        last: Step | None = None
        for step in run:
            if last is not None:
                yield last
            last = step
        if last is not None:
            alpha = self.alpha((int(last.images.shape[-2]), int(last.images.shape[-1])))
            if background == "fade":
                yield replace(last, images=faded(last.images, alpha))
            else:
                yield replace(last, extras={**last.extras, "alpha": alpha})

    def alpha(self, size: Size) -> Tensor:
        """(N, 1, H, W) in [0, 1]: the smoothed sum, 1 where it is about as large as in the object's middle."""
        assert self.total is not None
        smooth = blur(_in_size(self.total, size)[:, 0], _SMOOTH * min(size))[:, None]
        rank = int((1 - _DEVELOPED) * (smooth[0].numel() - 1))
        most = smooth.flatten(1).sort(dim=1).values[:, rank].reshape(-1, 1, 1, 1).clamp(min=1e-30)
        share = ((smooth / most - 0.25) / 0.5).clamp(0, 1)
        return share * share * (3 - 2 * share)


def faded(images: Tensor, alpha: Tensor) -> Tensor:
    """Images (N, C, H, W) whose surroundings, where alpha (N, 1, H, W) is small, are lost in their own blur."""
    sigma = _FADED * min(images.shape[-2:])
    soft = blur(images.flatten(0, 1), sigma).reshape(images.shape)
    return torch.lerp(soft, images, alpha.to(images).expand_as(images))


def _in_size(values: Tensor, size: Size) -> Tensor:
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)
