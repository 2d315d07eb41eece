"""The spatial map of a layer's output: channels first, channels last (Swin), or a row of tokens (ViT)."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from phosphene.errors import ModelError
from phosphene.types import LAYOUTS, Layout, Size

# Tokens that are no place of the image: none, the class's, also a teacher's; four or eight registers without and with.
_EXTRA_TOKENS = (0, 1, 2, 4, 5, 8, 9)

# A grid's proportions differ from the image's by rounding alone, which is most on the smallest grids.
_MOST_DISTORTION = math.log(2.1)


def spatial_map(output: Tensor, what: str, images: Tensor, layout: Layout | None = None) -> Tensor:
    """A layer's output, or its gradient, as (N, k, h, w).

    Tokens are laid out as the grid that covers the image with square patches, after the leading class and register
    tokens, which are left out, or those that the layout says. Where it is not known which axes are places, those that
    have the image's proportions are, if the others have not.

    Args:
        output: (N, k, h, w), (N, h, w, k), (N, T, k) or (N, k, T); images first, as all that is kept of layers.
        what: what it is, for the message.
        images: (N, C, H, W) that the network saw.
        layout: which axis is which, as the network says (`Prepared.layout`) or the user; None if nobody does.

    Raises:
        ModelError: if the output has no places, or it cannot be told which axes they are.

    Example:
        >>> images = torch.rand(1, 3, 224, 224)
        >>> [tuple(spatial_map(torch.rand(shape), "a layer", images).shape[1:])
        ...  for shape in ((1, 64, 7, 7), (1, 7, 7, 768), (1, 197, 192))]
        [(64, 7, 7), (768, 7, 7), (192, 14, 14)]
    """
    size = (int(images.shape[-2]), int(images.shape[-1]))
    one_row_each = output.shape[0] == images.shape[0]  # the windows of a Swin block are rows of their own
    if layout is not None and len(layout.partition(":")[0]) != output.ndim and one_row_each:
        raise ModelError(f"{what} has the shape {tuple(output.shape)}, which is not {layout}; say another layout")
    if output.ndim == 4 and one_row_each:
        if layout is None and _is_ambiguous(tuple(output.shape[1:]), size):
            name = what.rpartition(" ")[2]
            raise ModelError(
                f"{what}: nothing says which axes of {tuple(output.shape)} are places; "
                f"give the classifier layouts={{'{name}': 'NHWC'}} or 'NCHW'"
            )
        return output.movedim(channel_axis(output, images, layout), 1)
    if output.ndim == 3 and one_row_each:
        tokens = output if token_axis(layout) == 2 else output.transpose(1, 2)  # (N, k, T)
        around = extra_tokens(layout)
        grid = token_grid(int(tokens.shape[2]), size, around)
        if grid is not None:
            return tokens_of_places(tokens, grid, around).reshape(len(output), -1, *grid)
    raise ModelError(
        f"{what} has no places: {tuple(output.shape)} for {len(images)} images of {size[0]} x {size[1]}; "
        "name another layer"
    )


def spatial_size(shape: tuple[int, ...], size: Size, layout: Layout | None = None) -> Size | None:
    """(h, w) of the places in one image's output of a layer, or None if it has none, or not those of the image.

    Args:
        shape: of the output, without N.
        size: (height, width) of the image.
        layout: which axis is which; None if nobody says.

    Example:
        >>> [spatial_size(shape, (224, 224)) for shape in ((64, 7, 7), (7, 7, 768), (197, 192), (3, 197, 64), (512,))]
        [(7, 7), (7, 7), (14, 14), None, None]
    """
    if len(shape) == 2:
        return token_grid(shape[token_axis(layout) - 1], size, extra_tokens(layout))
    if len(shape) != 3:
        return None
    grid = shape[:2] if _channels_last(shape, size, layout) else shape[1:]
    similar = _distortion(grid, size) < _MOST_DISTORTION
    return (grid[0], grid[1]) if similar and grid[0] * grid[1] > 1 else None


def channel_axis(output: Tensor, images: Tensor, layout: Layout | None = None) -> int:
    """Which axis of a layer's output, with or without places, holds the channels; as the layout says, if there is one.

    Example:
        >>> images = torch.rand(1, 3, 224, 224)
        >>> shapes = (1, 64, 7, 7), (1, 7, 7, 768), (1, 197, 192), (1, 5)
        >>> [channel_axis(torch.rand(shape), images) for shape in shapes]
        [1, 3, 2, 1]
    """
    size = (int(images.shape[-2]), int(images.shape[-1]))
    if layout is not None and len(order := layout.partition(":")[0]) == output.ndim:
        return order.index("C")
    if output.ndim == 4:
        return 3 if _channels_last(tuple(output.shape[1:]), size) else 1
    return 2 if output.ndim == 3 else 1


def _channels_last(shape: tuple[int, ...], size: Size, layout: Layout | None = None) -> bool:
    if layout in ("NCHW", "NHWC"):
        return layout == "NHWC"
    return _distortion(shape[:2], size) < _distortion(shape[1:], size)


def _is_ambiguous(shape: tuple[int, ...], size: Size) -> bool:
    """Whether both pairs of axes could be the image's places."""
    return all(_distortion(pair, size) < _MOST_DISTORTION for pair in (shape[:2], shape[1:]))


def _distortion(grid: tuple[int, ...], size: Size) -> float:
    return abs(math.log(grid[0] * size[1]) - math.log(grid[1] * size[0]))


def is_layout(layout: Any) -> bool:
    """Whether it is one of the layouts that can be said.

    Example:
        >>> is_layout("NHWC"), is_layout("NTC:1+5"), is_layout("NHWC:1+5")
        (True, True, False)
    """
    if not isinstance(layout, str):
        return False
    order, marked, _ = layout.partition(":")
    return order in LAYOUTS and (not marked or (len(order) == 3 and extra_tokens(layout) is not None))


def token_axis(layout: Layout | None) -> int:
    """Which axis of (N, T, C) or (N, C, T), with the images first, holds the tokens."""
    return 2 if layout is not None and layout.startswith("NCT") else 1


def extra_tokens(layout: Layout | None) -> tuple[int, int] | None:
    """How many tokens before and behind those of places are none; None where the layout does not say.

    Example:
        >>> extra_tokens("NTC:1+5"), extra_tokens("NTC")
        ((1, 5), None)
    """
    found = re.fullmatch(r"(?:NTC|NCT|TNC):(\d+)\+(\d+)", layout or "")
    return None if found is None else (int(found[1]), int(found[2]))


def tokens_of_places(tokens: Tensor, grid: Size, around: tuple[int, int] | None) -> Tensor:
    """(..., h * w): of values (..., T) of all tokens those of a grid's places; the others lead, unless it is said."""
    behind = 0 if around is None else around[1]
    return tokens[..., tokens.shape[-1] - behind - grid[0] * grid[1] : tokens.shape[-1] - behind]


def token_note(count: int, grid: Size, around: tuple[int, int] | None) -> str:
    """How so many tokens are laid out, for the notes of a result.

    Example:
        >>> token_note(17, (4, 4), None), token_note(22, (4, 4), (1, 5))
        ('4 x 4 patches, the first 1 left out', '4 x 4 patches, the first 1 and the last 5 left out')
    """
    behind = 0 if around is None else around[1]
    before = count - behind - grid[0] * grid[1]
    parts = [f"the {place} {number}" for place, number in (("first", before), ("last", behind)) if number]
    left_out = f", {' and '.join(parts)} left out" if parts else ""
    return f"{grid[0]} x {grid[1]} patches{left_out}"


def token_grid(count: int, size: Size, around: tuple[int, int] | None = None) -> Size | None:
    """(h, w) of the square patches that `count` tokens stand for, or None.

    Args:
        count: of the tokens.
        size: (height, width) of the image.
        around: how many before and behind are no places; None if nobody says: then the fewest that lead win.

    Example:
        >>> token_grid(197, (224, 224)), token_grid(50, (224, 224)), token_grid(1 + 14 * 10, (224, 160))
        ((14, 14), (7, 7), (14, 10))
        >>> token_grid(23, (224, 224)) is None, token_grid(22, (64, 64), (1, 5))
        (True, (4, 4))
    """
    for extra in _EXTRA_TOKENS if around is None else (sum(around),):
        cells = count - extra
        for rows in range(1, cells + 1):
            if cells % rows == 0 and _same_patch((rows, cells // rows), size):
                return rows, cells // rows
    return None


def _same_patch(grid: Size, size: Size) -> bool:
    """Whether one patch size, of whole pixels, divides the image into this grid, a remainder left over."""
    patches = [range(side // (cells + 1) + 1, side // cells + 1) for side, cells in zip(size, grid, strict=True)]
    return max(patches[0].start, patches[1].start) < min(patches[0].stop, patches[1].stop)
