"""EigenCAM: what a layer mostly responds to, whatever the class."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.layer_maps import activation_map
from phosphene.devices import wide
from phosphene.registry import register_attribution

# A cosine smaller than this may be rounding: it chooses no sign.
_UNDECIDED = 1e-3


@register_attribution(
    title="EigenCAM",
    family="cam",
    paper="muhammad2020",
    display="positive",
    caveat="The same for every class: it shows what the layer responds to, not what speaks for the class.",
)
@by_formula(activation_map)
def eigen_cam(activations: Tensor, *, center: bool = False) -> Tensor:
    """What stands out in a layer: its activations projected on their first principal direction.

    ``L = A v_1``, A being the activations as (places, channels) and v_1 their first right singular vector. The vector's
    sign is arbitrary; here it is chosen so that places of large activations come out positive, or where all are equally
    large (behind a layer norm) those that stand out most (ours). The class plays no part but for the score that is
    reported.

    Args:
        activations: (N, k, h, w).
        center: take the mean of each channel over the places off first, as common implementations do.

    Example:
        >>> from phosphene import Classifier, Target
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier, images = Classifier(net), torch.rand(2, 3, 8, 8)
        >>> one, two = (eigen_cam(classifier, images, Target.of(index)).maps for index in (0, 1))
        >>> torch.equal(one, two)
        True

    References:
        muhammad2020, section III.
    """
    activations, device = wide(activations), activations.device
    rows = activations.flatten(2).transpose(1, 2)  # (N, h w, k)
    finite = rows.isfinite().flatten(1).all(dim=1)[:, None]
    rows = torch.where(finite[..., None], rows, torch.zeros_like(rows))
    if center:
        rows = rows - rows.mean(dim=1, keepdim=True)
    left, scale, _ = torch.linalg.svd(rows, full_matrices=False)
    projected = left[..., 0] * scale[:, :1]  # A v_1 = u_1 s_1
    projected = torch.where(finite, projected * _sign(projected, activations), torch.nan)
    return projected.float().to(device).unflatten(1, activations.shape[-2:])  # type: ignore[no-untyped-call, no-any-return]


def _sign(projected: Tensor, activations: Tensor) -> Tensor:
    """(N, 1) of 1 or -1: projections (N, h w) made to grow with the magnitude of activations (N, k, h, w)."""
    magnitudes = activations.nan_to_num().flatten(2).norm(dim=1)  # (N, h w)
    along = (projected * magnitudes).sum(dim=1, keepdim=True)
    undecided = along.abs() < _UNDECIDED * projected.norm(dim=1, keepdim=True) * magnitudes.norm(dim=1, keepdim=True)
    along = torch.where(undecided, projected.pow(3).sum(dim=1, keepdim=True), along)
    return torch.where(along < 0, -1.0, 1.0)
