"""Score-CAM: a layer's channels weighted by what the classifier says when only their places are left visible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from phosphene.attribution.layer_maps import Layers, averaged_layers, laid_by, layer_names
from phosphene.attribution.result import sides
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.graph import spatial_map
from phosphene.grids import to_network_size
from phosphene.maps import normalize
from phosphene.registry import register_attribution
from phosphene.runtime import Placement, activations, blended_scores, prepare
from phosphene.targets import Target
from phosphene.types import Attribution, Size

Stretch = Literal["after", "before"]

# Masks of image size that exist at a time.
_WHOLE = Placement()
_MASKS = 64


@register_attribution(
    title="Score-CAM",
    family="cam",
    paper="wang2020",
    display="range",
    caveat="The softmax over channels gives nearly all the weight to a few; one pass per channel makes it slow.",
)
def score_cam(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    channels: int | None = None,
    stretch: Stretch = "after",
    align_corners: bool = False,
    relu: bool = False,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Which places of a layer speak for the class, its channels weighted without any gradient.

    ``L[y, x] = sum_k a_k A_k[y, x]``, ``a = softmax over k of S(I * H_k)``, H_k being channel k enlarged to the image
    and stretched to [0, 1]; the paper's baseline score cancels in the softmax. What is masked shows the classifier's
    mean image, which normalization maps to the paper's zero. S is the logit unless the target says otherwise.
    Libraries make H_k otherwise: ``stretch=before`` gives the maps of torchcam, ``align_corners=true`` those of
    pytorch-grad-cam.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is watched.
        layer: a layer whose output has places, by dotted name or module; several as a+b, averaged; None for the last.
        channels: use only so many channels, those with the widest range of activations (ours); None for all.
        stretch: whether a channel is stretched to [0, 1] after it is enlarged, as in the paper, or before.
        align_corners: enlarge so that the outer cells lie on the border pixels; else the cells tile the image.
        relu: keep the positive part of each layer's map alone, as the paper does.
        batch_size: masked images per pass; None chooses.
        progress: called with (masks done, masks in all).

    Returns:
        Maps (N, h, w) on the layer's grid, of several layers on the finest; negative only where activations are.

    Raises:
        ModelError: if the layer's output has no places.
        NotFoundError: for an unknown layer, with the nearest names.
        OptionError: for less than one channel.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> score_cam(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1)).maps.shape
        torch.Size([2, 6, 6])

    References:
        wang2020, equations 3 to 5 and algorithm 1.
    """
    if channels is not None and channels < 1:
        raise OptionError(f"score_cam: channels={channels} must be at least 1, or none for all")
    names = layer_names(classifier, layer, target, images)
    target, size = target.expand(len(images)), sides(images)
    laid = laid_by(prepare(classifier), names, images)
    _, outputs = activations(classifier, images, names, batch_size=batch_size)
    layouts = {name: prepare(classifier).layout(name) for name in names}
    values = {name: spatial_map(outputs[name], f"layer {name}", images, layouts[name]) for name in names}
    counts = {name: min(channels or int(value.shape[1]), int(value.shape[1])) for name, value in values.items()}
    total, done = len(images) * sum(counts.values()), 0
    maps: dict[str, list[Tensor]] = {name: [] for name in names}
    scores: list[Tensor] = []
    for index in range(len(images)):
        for name in names:
            chosen = _widest(values[name][index], counts[name])
            watched = []
            for part in torch.split(chosen, _MASKS):
                clean, behind = blended_scores(
                    classifier,
                    images[index : index + 1],
                    target.rows(index, index + 1),
                    channel_masks(part, size, stretch, align_corners, laid),
                    classifier.mean_image,
                    score="logit",
                    batch_size=batch_size,
                )
                watched.append(behind[0])
                done += len(part)
                if progress is not None:
                    progress(done, total)
            weights = torch.cat(watched).softmax(dim=0)
            maps[name].append((weights[:, None, None] * chosen).sum(dim=0))
        scores.append(clean)
    return averaged_layers(
        [torch.stack(maps[name]) for name in names], names, classifier, images, target, torch.cat(scores), relu
    )


def _widest(channels: Tensor, count: int) -> Tensor:
    """The `count` channels (k, h, w) of the widest range, in their own order."""
    flat = channels.flatten(1)
    best = (flat.amax(dim=1) - flat.amin(dim=1)).nan_to_num().topk(count).indices
    return channels[best.sort().values]


def channel_masks(
    channels: Tensor,
    size: Size,
    stretch: Stretch = "after",
    align_corners: bool = False,
    laid: Placement = _WHOLE,
) -> Tensor:
    """(k, H, W) in [0, 1]: channels (k, h, w) enlarged to the image, each stretched; a constant one is 0.

    Where the layer sees a part of the image alone, they are laid there.
    """
    cells = (int(channels.shape[-2]), int(channels.shape[-1]))
    grid = _corner_grid(size, cells) if align_corners and laid == _WHOLE else laid.grid(size, cells)
    if stretch == "before":
        return to_network_size(normalize(channels), *grid, size)
    return normalize(to_network_size(channels, *grid, size))


def _corner_grid(size: tuple[int, int], cells: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(offset, stride) of a grid whose outer cells lie on the border pixels; of one row, anywhere."""
    rows, columns = (
        (pixels - 1) / (count - 1) if count > 1 else 1.0 for pixels, count in zip(size, cells, strict=True)
    )
    return (0.5, 0.5), (rows, columns)
