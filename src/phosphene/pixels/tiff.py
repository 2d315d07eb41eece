"""TIFF files that Pillow does not read, or not at their depth: deep and many bands, floats, channels as pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phosphene.errors import InputError
from phosphene.pixels.bands import Alpha, Bands
from phosphene.pixels.png import upright
from phosphene.pixels.quiet import silent

# Tags of TIFF.
_BITS, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _SAMPLES, _FORMAT = 258, 262, 270, 274, 277, 339
_COLORS = {"MINISWHITE", "MINISBLACK", "RGB"}
# How programs that write a file as one array of many pages say what its axes are.
_DESCRIBED = ('{"shape"', "ImageJ=", "<?xml")
_MAX_BANDS = 4096


def starts_like_tiff(path: Path) -> bool:
    """Whether a file begins as TIFF or BigTIFF does."""
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def needs_whole_tiff(image: Any) -> bool:
    """Whether Pillow would leave out something of the TIFF that it opened: bits, bands, or channels that are pages."""
    tags = image.tag_v2
    if max(_numbers(tags.get(_BITS, 1))) > 8 or set(_numbers(tags.get(_FORMAT, 1))) - {1}:
        return True
    if image.mode != "CMYK" and tags.get(_SAMPLES, 1) != len(image.getbands()):
        return True
    return str(tags.get(_DESCRIPTION, "")).startswith(_DESCRIBED) and image.n_frames > 1


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) and value else (value,)


def read_tiff(path: Path, limit: int) -> Bands:
    """The bands of a TIFF file, upright; of several pictures the first.

    Bands are the samples of a pixel, or the channels of ImageJ and OME files; what tifffile wrote as pages of one array
    without naming its axes is that array, (H, W, C).

    Args:
        path: the file.
        limit: more pixels, or more than four times as many numbers, are refused.

    Raises:
        InputError: naming the file.
    """
    import tifffile

    with silent("tifffile"), tifffile.TiffFile(path) as file:
        series = file.series[0]
        page: Any = series.keyframe
        as_array = series.kind == "shaped" and series.axes == "QYX"
        axes = "YXC" if as_array else series.axes
        shape = dict(zip(axes, series.shape, strict=True))
        _check(path, page, shape, limit)
        pages = series.pages if as_array or "C" in axes else [page]
        _check_whole(path, pages, file.filehandle.size)
        try:
            values = series.asarray() if as_array or "C" in axes else page.asarray()
        except Exception as error:  # of any kind, by version
            if "imagecodecs" not in str(error):
                raise
            return _by_pillow(path, page)
        values = _first(values, axes if as_array or "C" in axes else page.axes)
        if page.photometric.name == "MINISWHITE":
            values = _inverted(values, page.bitspersample)
        white = (1 << page.bitspersample) - 1 if 8 < page.bitspersample < 16 and values.dtype == np.uint16 else None
        values = _turned(values, page.tags.valueof(_ORIENTATION, default=1))
        hint = f"tifffile wrote it as one array {series.shape}, read as (H, W, C)" if as_array else ""
        return Bands(np.ascontiguousarray(values), str(path), _alpha(page), white, hint)


def _check(path: Path, page: Any, shape: dict[str, int], limit: int) -> None:
    height, width = shape.get("Y", 0), shape.get("X", 0)
    bands = shape.get("C", 1) * shape.get("S", 1)
    if not height or not width or not bands:
        raise InputError(f"{path}: holds no pixels (axes {shape})")
    if height * width > limit or height * width * bands > 4 * limit:
        raise InputError(f"{path}: {height} x {width} pixels of {bands} bands are too many; make a smaller copy")
    if bands > _MAX_BANDS:
        raise InputError(f"{path}: {bands} bands; a picture has at most {_MAX_BANDS}")
    if "C" in shape and "S" in shape and shape["C"] > 1:
        raise InputError(f"{path}: has both channels and samples (axes {shape}); save the picture alone")
    color = getattr(page.photometric, "name", str(page.photometric))
    if color not in _COLORS:
        raise InputError(f"{path}: {page.dtype} values of the color space {color}; save it as RGB or grey")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise InputError(f"{path}: holds values of type {page.dtype}; save it as uint8, uint16 or float in [0, 1]")


def _check_whole(path: Path, pages: Any, size: int) -> None:
    """A missing end would be filled up with black."""
    for page in pages:
        if page is None:
            raise InputError(f"{path}: damaged or cut short (a page is missing)")
        places = zip(page.dataoffsets, page.databytecounts, strict=True)
        if any(start + length > size for start, length in places):
            raise InputError(f"{path}: damaged or cut short (pixels are said to lie beyond its end)")


def _first(values: NDArray[Any], axes: str) -> NDArray[Any]:
    """(C, H, W): the bands in front, and of all other axes (time, depth, pictures) the first place."""
    for place in range(len(axes) - 1, -1, -1):
        if axes[place] not in "CSYX" or (axes[place] == "C" and "S" in axes):
            values, axes = values.take(0, axis=place), axes[:place] + axes[place + 1 :]
    bands = next((name for name in axes if name in "CS"), "")
    if not bands:
        return values.transpose(axes.index("Y"), axes.index("X"))[None]
    return values.transpose([axes.index(name) for name in (bands, "Y", "X")])


def _inverted(values: NDArray[Any], bits: int) -> NDArray[Any]:
    return ~values if values.dtype == bool else (1 if values.dtype.kind == "f" else (1 << bits) - 1) - values


def _alpha(page: Any) -> Alpha:
    kinds = [int(kind) for kind in page.extrasamples or ()]
    colors = 3 if page.photometric.name == "RGB" else 1
    if page.samplesperpixel != colors + 1 or kinds not in ([1], [2]):
        return "none"
    return "premultiplied" if kinds == [1] else "last"


def _turned(values: NDArray[Any], orientation: Any) -> NDArray[Any]:
    """(C, H, W) upright, by the tag that says how the rows are stored."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        values = values[:, ::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, :, ::-1]
    return values


def _by_pillow(path: Path, page: Any) -> Bands:
    """A single band whose compression only Pillow unpacks; its type is the file's."""
    with Image.open(path) as image:
        deep = image.mode.startswith("I") or image.mode == "F"
        if not deep or page.dtype.kind == "i" or page.photometric.name == "MINISWHITE":
            packed = getattr(page.compression, "name", page.compression)
            raise InputError(
                f"{path}: its compression {packed} is not read at this depth; pip install imagecodecs, or save it with "
                "deflate or none"
            )
        image.load()
        values = np.asarray(upright(image))[None]
    bits = page.bitspersample
    if page.dtype == np.uint16:
        return Bands(values.astype(np.uint16), str(path), white=(1 << bits) - 1 if 8 < bits < 16 else None)
    return Bands(values.astype(page.dtype), str(path))
