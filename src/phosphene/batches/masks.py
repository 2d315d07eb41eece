"""How much of the evidence lies in a mask: of a picture, of its located object, or from files beside the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from phosphene.errors import InputError, OptionError
from phosphene.files import is_file, is_folder, join, parent
from phosphene.geometry import whole_view
from phosphene.grids import to_network_size
from phosphene.images import picture_size, to_pil
from phosphene.metrics.evidence_share import evidence_share
from phosphene.sources import Item, Source, Table
from phosphene.sources.decode import load_place
from phosphene.store.rows import Grid
from phosphene.types import View

Mask = NDArray[np.bool_]
# Pictures of which it is asked before a run whether any of them has a mask.
_ASKED = 200
# What --masks says for the object that the network itself finds.
LOCATED = "located"


@dataclass(frozen=True)
class Masks:
    """Where the masks of pictures are: files of a folder, files that a column names, or the located object.

    Args:
        folder: that the files lie in; a mask is called as its picture, with any ending of pictures, or that of PNG.
        column: of the source that names the files, instead.
        is_located: the object that `locate` finds, instead.
    """

    folder: str = ""
    column: str | None = None
    is_located: bool = False

    @classmethod
    def of(cls, text: str, source: Source) -> Masks:
        """The masks that --masks means.

        Raises:
            OptionError: for what is neither a column of the source nor a folder.
        """
        if text == LOCATED:
            return cls(is_located=True)
        if text in source.column_types:
            return cls(parent(source.place) if isinstance(source, Table) else "", text)
        if is_folder(text):
            return cls(text)
        columns = ", ".join(source.column_types) or "none"
        raise OptionError(f"--masks {text}: neither a folder, nor a column of the source (there are: {columns})")

    def read(self, item: Item) -> Mask | None:
        """(H, W) the mask of a picture in its own pixels; None if it has none.

        Raises:
            InputError: if the file cannot be read, or has another size.
        """
        place = self._place(item)
        if place is None or item.picture is None:
            return None
        picture = to_pil(load_place(place))
        (height, width), size = picture_size(item.picture), (picture.height, picture.width)
        if size != (height, width):
            raise InputError(
                f"{place}: a mask of {size[1]} x {size[0]} pixels for a picture of {width} x {height}; "
                "give masks of the pictures' size"
            )
        return np.asarray(picture.convert("L")) > 127

    def check(self, keys: Sequence[str]) -> None:
        """See that there is a mask of some of the pictures, where a folder holds them.

        Raises:
            OptionError: naming the file that was looked for.
        """
        some = keys[:_ASKED]
        if self.column is not None or self.is_located or not some or any(map(self._in_folder, some)):
            return
        what = "the picture has no mask" if len(some) == 1 else f"none of the first {len(some)} pictures has a mask"
        raise OptionError(f"--masks {self.folder}: {what} there; looked for {self._names(some[0])[0]}")

    def _place(self, item: Item) -> str | None:
        if self.column is not None:
            name = item.columns.get(self.column)
            return join(self.folder, str(name)) if name else None
        return self._in_folder(item.key)

    def _in_folder(self, key: str) -> str | None:
        return next((place for place in self._names(key) if is_file(place)), None)

    def _names(self, key: str) -> list[str]:
        return [join(self.folder, name) for name in (f"{PurePosixPath(key).with_suffix('')}.png", key)]


def shares(values: NDArray[Any], mask: Mask, grid: Grid | None = None, view: View | None = None) -> dict[str, Any]:
    """Which part of the evidence lies inside a mask, and which part of what was seen the mask is.

    A map that knows nothing has the second in the first: the two are read beside each other.

    Args:
        values: (h, w) a map.
        mask: (H, W) in pixels of the picture.
        grid: where the map's cells lie in the network's image; None for a map that covers the whole picture evenly.
        view: what the network saw of the picture; None with `grid`.

    Returns:
        {"evidence_inside", "mask_share"}, both in [0, 1]; the first is None for a map without evidence for the class.

    Example:
        >>> mask = np.zeros((4, 4), bool)
        >>> mask[:, :2] = True
        >>> shares(np.array([[3.0, 1.0]]), mask)
        {'evidence_inside': 0.75, 'mask_share': 0.5}

    References:
        arras2022.
    """
    if grid is None or view is None:
        size = (values.shape[0], values.shape[1])
        grid, view = Grid((0.5, 0.5), (1.0, 1.0), size), whole_view((mask.shape[0], mask.shape[1]), size)
    seen = _as_seen(mask, view)
    laid = to_network_size(torch.from_numpy(np.asarray(values, np.float32))[None], grid.offset, grid.stride, grid.size)
    share = float(evidence_share(laid, torch.from_numpy(seen)[None]))
    return {"evidence_inside": None if math.isnan(share) else share, "mask_share": float(seen.mean())}


def _as_seen(mask: Mask, view: View) -> Mask:
    """(h, w) the part of a mask that the network saw, in its pixels."""
    (height, width), (top, left, crop_height, crop_width) = view.scaled, view.crop
    picture = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture.crop((left, top, left + crop_width, top + crop_height))) > 127


def none_inside() -> Mapping[str, Any]:
    """The shares of a map that has no mask."""
    return {"evidence_inside": None, "mask_share": None}
