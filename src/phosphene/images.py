"""Pictures in and out: files, PIL images, arrays and tensors, read safely; knows no model.

Inside phosphene a picture is a float tensor (C, H, W) in [0, 1], or, where it holds no more than 8 bits of grey or
color, a PIL image (RGB), which is resized as networks are trained and published.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from phosphene.errors import InputError, OptionError, PhospheneWarning, warn
from phosphene.pixels import (
    Bands,
    Scale,
    deep_png,
    eight_bits,
    fitted,
    in_unit,
    is_deep_png,
    needs_whole_tiff,
    read_npy,
    read_tiff,
    silent,
    starts_like_npy,
    starts_like_tiff,
    stated_scale,
    unwarned,
    upright,
)
from phosphene.run_mark import MANIFEST, MANIFEST_HEAD, is_manifest_of_run
from phosphene.types import View

Picture = Image.Image | Tensor
Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]

_PIL_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}

# A photograph of 180 megapixels is real; what claims more is a decompression bomb.
MAX_PIXELS = 180_000_000
# A picture of 1 x 10000 pixels would be enlarged to more than this before its centre is cut out.
_MAX_RESIZED = 16_000_000
# Mean difference of red, green and blue that is more than what saving a gray picture as JPEG leaves.
_COLORED = 0.04
# Red, green and blue in a grey picture, as Pillow weighs them.
_LUMA = (0.299, 0.587, 0.114)
VOLUMES = ", of a volume its slices and of a film its frames: they are the N pictures of a batch"
# Of files that are pictures; those of phones among them are refused by name where Pillow cannot read them.
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".avif", ".heic", ".heif"}
)
# What such a file says of its kind behind "ftyp".
_HEIC = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})


def read_image(
    path: str | os.PathLike[str],
    channels: int | None = None,
    *,
    black: float | None = None,
    white: float | None = None,
) -> Picture:
    """The picture in a file, upright (EXIF honoured), at its full depth; of an animation the first frame.

    A picture of 8 bits comes as a PIL image (RGB), a deeper one and one of other bands as a float tensor (C, H, W) in
    [0, 1]. PNG is read at up to 16 bits a channel, TIFF and NumPy's .npy, (H, W) or (H, W, C), with any bands of
    integers and floats, other formats at the 8 bits that Pillow gives. 16-bit values are divided by 65535. Transparent
    pixels are laid on white, unless the network takes transparency as a channel.

    Args:
        path: a file in any format that Pillow reads, a TIFF, or an array that numpy.save wrote.
        channels: of the network that it is for; None for whatever the file holds.
        black: the stored value that is black, for values without a known scale (signed integers, floats beyond
            [0, 1], 12 bits in a file of 16); what lies beyond is clipped.
        white: the stored value that is white; `black` is 0 unless it is given. Pictures of 8 bits are read as without
            it.

    Raises:
        InputError: one line that names the file: missing, a directory, empty, not an image, damaged, too large, of
            values without a known scale, of bands that do not fit the network.
        OptionError: if black and white are not two finite values.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scan.tif"
        >>> Image.fromarray(np.array([[-1000, 0], [1000, 3000]], np.int32)).save(path)
        >>> read_image(path, black=-1000, white=3000)
        tensor([[[0.0000, 0.2500],
                 [0.5000, 1.0000]]])
    """
    return _from_file(Path(path), channels, stated_scale(black, white))


def _from_file(path: Path, channels: int | None, scale: Scale | None) -> Picture:
    _check_file(path)
    try:
        # Pillow turns some damage into warnings; what it can still read is fine by us. (Ours come after it.)
        with unwarned(), silent("PIL.TiffImagePlugin"):
            stored = _read(path, channels, scale)
        return _finished(stored, channels, scale)
    except (InputError, OptionError, PhospheneWarning):  # (the warning where filters make errors of these)
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{path}: claims more than {MAX_PIXELS:,} pixels; make a smaller copy") from None
    except UnidentifiedImageError:
        with path.open("rb") as file:
            raise not_an_image(str(path), file.read(12)) from None
    except MemoryError:
        raise InputError(f"{path}: too large for this machine's memory; make a smaller copy") from None
    except Exception as error:  # a damaged file may raise anything in a decoder
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise InputError(f"{path}: damaged or cut short ({reason})") from None


def _read(path: Path, channels: int | None, scale: Scale | None) -> Bands | Image.Image:
    if starts_like_npy(path):
        return read_npy(path, MAX_PIXELS)
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {image.width} x {image.height} pixels is more than the {MAX_PIXELS:,} "
                    "that are read; make a smaller copy"
                )
            if is_deep_png(image):
                return deep_png(path)
            if image.format != "TIFF" or not needs_whole_tiff(image):
                image.seek(0)
                image.load()
                whole = image.convert("RGBA") if image.mode == "RGB" and "transparency" in image.info else image
                return _from_pil(whole, channels, str(path), scale)
    except UnidentifiedImageError:
        if not starts_like_tiff(path):
            raise
    return read_tiff(path, MAX_PIXELS)


def _finished(stored: Bands | Image.Image, channels: int | None, scale: Scale | None) -> Picture:
    return _picture(stored, channels, scale) if isinstance(stored, Bands) else stored


def _picture(bands: Bands, channels: int | None, scale: Scale | None = None) -> Picture:
    """Stored numbers as a picture for a network: 8 bits of grey or color as a PIL image, all else as a tensor."""
    values = in_unit(bands, scale)
    unit = replace(bands, values=values)
    colors = len(values) in ((1, 3) if bands.alpha == "none" else (2, 4))
    if channels in (None, 1, 3) and colors and bands.alpha != "premultiplied":
        eight = eight_bits(values, bands.values.dtype)
        if eight is not None:
            stacked = eight[0] if len(eight) == 1 else np.ascontiguousarray(np.moveaxis(eight, 0, -1))
            return to_rgb(Image.fromarray(stacked))
    return torch.from_numpy(np.ascontiguousarray(fitted(unit, channels).values))


def _from_pil(image: Image.Image, channels: int | None, name: str, scale: Scale | None = None) -> Bands | Image.Image:
    """A PIL image of any mode, upright: the picture where it is one of 8 bits in RGB, else its bands."""
    # Where only part of 32 bits is used, Pillow says so by nothing but the format.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    image = upright(image)
    if image.mode == "La":
        image = image.convert("LA")
    deep = image.mode.startswith("I") or image.mode == "F"
    if not deep and scale is None and channels in (None, 1, 3):
        return to_rgb(image)
    if deep:
        values = np.asarray(image, np.uint16 if sixteen else None)
        return Bands(values[None], name)
    if _is_transparent(image):
        image, alpha = image.convert("LA" if channels == 2 and image.mode == "LA" else "RGBA"), True
    else:
        image, alpha = image.convert("L" if image.mode in ("1", "L") else "RGB"), False
    values = np.asarray(image)
    values = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    return Bands(values, name, "last" if alpha else "none")


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a directory; give its pictures, as list(pathlib.Path(folder).glob('*.jpg'))")
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path}: is a link to nothing")
        if not path.exists():
            hint = "; of a pattern pass the files that it fits, as glob.glob(pattern)" if "*" in path.name else ""
            raise InputError(f"{path}: no such file{hint}")
        if not path.is_file():
            raise InputError(f"{path}: not a regular file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes)")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None


def not_an_image(name: str, head: bytes) -> InputError:
    """The error of a file that no decoder knows.

    Args:
        name: of the file.
        head: its first twelve bytes.

    Example:
        >>> print(not_an_image("IMG_0001.HEIC", b"....ftypheic"))
        IMG_0001.HEIC: not an image that can be read (it is HEIC, as phones save it); save it as JPEG or PNG
    """
    if not head:
        return InputError(f"{name}: is empty (0 bytes)")
    is_heic = head[4:8] == b"ftyp" and head[8:12] in _HEIC
    what = "it is HEIC, as phones save it" if is_heic else "it begins with " + repr(head[:12])[1:]
    return InputError(f"{name}: not an image that can be read ({what}); save it as JPEG or PNG")


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of 8 bits or fewer as RGB: alpha on white."""
    if image.mode == "RGB":
        return image.copy()
    if _is_transparent(image):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _is_transparent(image: Image.Image) -> bool:
    # A picture converted to RGB keeps the note of a transparent color, yet shows what it shows.
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (image.mode != "RGB" and "transparency" in image.info)


def as_pictures(
    source: Any, channels: int | None = None, *, black: float | None = None, white: float | None = None
) -> list[Picture]:
    """One or many pictures from a path, PIL image, array or tensor, or a sequence of these.

    The same values give the same picture, whatever they come in.

    Args:
        source: a path, a PIL image, an array (H, W), (H, W, C) or (N, H, W, C), a tensor (C, H, W) or (N, C, H, W), or
            a list of any of them. Arrays and tensors: uint8 in 0..255, uint16 in 0..65535, bool, or float in [0, 1];
            four bands are colors and transparency unless the network takes four channels.
        channels: of the network that they are for; None for whatever they hold.
        black: the value that is black in files, as read_image takes it, and in arrays of integers of more than 8 bits.
        white: the value that is white in these. Arrays of floats hold pictures already: values in [0, 1].

    Raises:
        InputError: naming what was got and what is possible.
    """
    return _pictures(source, channels, stated_scale(black, white))


def _pictures(source: Any, channels: int | None, scale: Scale | None) -> list[Picture]:
    if isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]+://", source):
        raise InputError(f"{source}: is an address; download the picture, or open it with PIL, and pass that")
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise InputError("a picture without a name: an empty text was given; pass a path")
        return [_from_file(Path(source), channels, scale)]
    if isinstance(source, Image.Image):
        return [_given_pil(source, channels, scale)]
    if isinstance(source, np.ndarray):
        return _from_array(source, channels, scale)
    if isinstance(source, Tensor):
        return _from_tensor(source, channels, scale)
    if hasattr(source, "columns"):  # of pandas and polars; iterated over they give the names of columns, or columns
        raise InputError(f"a picture of type {type(source).__name__}; pass its column of paths, as table['path']")
    if isinstance(source, Iterable) and not isinstance(source, Mapping | Set | bytes) and not hasattr(source, "read"):
        pictures = [picture for place, item in enumerate(source) for picture in _item(item, channels, scale, place)]
        if not pictures:
            raise InputError("no pictures were given; pass at least one")
        return pictures
    raise InputError(f"a picture of type {type(source).__name__}; pass a path, a PIL image, an array or a tensor")


def _item(item: Any, channels: int | None, scale: Scale | None, place: int) -> list[Picture]:
    """The pictures in one item of a sequence; what is wrong with it is told with its place."""
    try:
        return _pictures(item, channels, scale)
    except InputError as error:
        if isinstance(item, str | os.PathLike):
            raise
        if isinstance(item, list | tuple):
            nested = f"item {place + 1} is a {type(item).__name__}; of a DataLoader pass the pictures of a batch alone"
            raise InputError(f"{nested} ({error})") from None
        raise InputError(f"picture {place + 1}: {error}") from None


def _given_pil(image: Image.Image, channels: int | None, scale: Scale | None = None) -> Picture:
    name = f"a picture of PIL mode {image.mode}"
    scale = scale if image.mode.startswith("I") else None
    if 0 in image.size:
        raise InputError(f"{name}: has no pixels, {image.height} x {image.width}")
    try:
        return _finished(_from_pil(image, channels, name, scale), channels, scale)
    except (ValueError, OSError, SyntaxError) as error:  # some modes become nothing else; a lazy one may be damaged
        raise InputError(f"{name}: cannot be read ({error}); pass it as RGB") from None


def _from_array(array: np.ndarray[Any, Any], channels: int | None, scale: Scale | None) -> list[Picture]:
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        hint = VOLUMES if array.ndim == 5 else ""
        raise InputError(f"an array of shape {array.shape}; pass (H, W), (H, W, C) or (N, H, W, C){hint}")
    if array.dtype.kind not in "biuf":
        raise InputError(f"a picture of type {array.dtype}; pass uint8, uint16 or float in [0, 1]")
    if np.ma.is_masked(array):
        raise InputError("a picture with masked pixels; say what they look like: array.filled(value)")
    if array.ndim == 4:
        return [picture for item in array for picture in _from_array(item, channels, scale)]
    bands = np.asarray(array)[None] if array.ndim == 2 else np.moveaxis(np.asarray(array), -1, 0)
    hint = "arrays have their channels last: pass array.transpose(1, 2, 0)" if _fits(array.shape[0], channels) else ""
    return [_picture(_given(bands, f"a picture of shape {array.shape}", hint), channels, _of_deep(bands, scale))]


def _from_tensor(tensor: Tensor, channels: int | None, scale: Scale | None) -> list[Picture]:
    if tensor.is_nested:
        raise InputError("pictures as a nested tensor; pass a list of them: list(tensor.unbind())")
    if tensor.ndim not in (3, 4) or 0 in tensor.shape:
        hint = VOLUMES if tensor.ndim == 5 else ""
        if tensor.ndim < 2 and not tensor.is_floating_point():
            hint = "; if these are the classes of the pictures, they go to target="
        raise InputError(f"a tensor of shape {tuple(tensor.shape)}; pass (C, H, W) or (N, C, H, W){hint}")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise InputError(
            f"a picture of type {tensor.dtype}, {tensor.layout}, on {tensor.device}; pass uint8 or float in [0, 1]"
        )
    if tensor.ndim == 4:
        return [picture for item in tensor for picture in _from_tensor(item, channels, scale)]
    # NumPy knows no bfloat16, nor the small ones.
    known = tensor.dtype in (torch.float16, torch.float32, torch.float64) or not tensor.is_floating_point()
    values = (tensor.detach() if known else tensor.detach().float()).cpu().numpy()
    hint = "tensors have their channels first: pass tensor.movedim(-1, 0)" if _fits(tensor.shape[-1], channels) else ""
    given = _given(values, f"a picture of shape {tuple(tensor.shape)}", hint)
    return [_picture(given, channels, _of_deep(values, scale))]


def _of_deep(values: np.ndarray[Any, Any], scale: Scale | None) -> Scale | None:
    """The scale for integers of more than 8 bits: floats and bytes in memory may have been read by it before."""
    return scale if values.dtype.kind in "iu" and values.dtype.itemsize > 1 else None


def _fits(length: int, channels: int | None) -> bool:
    return length == channels or (channels in (1, 3) and length in (1, 3, 4))


def _given(values: np.ndarray[Any, Any], name: str, hint: str) -> Bands:
    """Bands of an array: of four, the last is transparency where the network takes colors, as everywhere."""
    return Bands(values, name, "last" if len(values) == 4 else "none", hint=hint)


def picture_size(picture: Picture) -> tuple[int, int]:
    """(height, width) in pixels."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return int(picture.shape[-2]), int(picture.shape[-1])


def _eight_or_tensor(picture: Picture, channels: int) -> Picture:
    """A PIL image of any other mode, handed in as it is, read like one that was given to as_pictures."""
    if isinstance(picture, Image.Image) and picture.mode not in ("RGB", "L"):
        return _given_pil(picture, channels)
    return picture


def to_tensor(picture: Picture, channels: int = 3) -> Tensor:
    """(C, H, W) float32 in [0, 1] with the wanted number of channels.

    Raises:
        InputError: if the channels cannot be had from the picture.
    """
    picture = _eight_or_tensor(picture, channels)
    if isinstance(picture, Image.Image):
        if channels == 1:
            _tell_of_color(np.moveaxis(np.asarray(picture, np.float32) / 255, -1, 0))
            picture = picture.convert("L")
        array = np.asarray(picture)
        tensor = torch.from_numpy(np.array(array if array.ndim == 3 else array[..., None])).movedim(-1, 0)
        picture = tensor.float() / 255.0
    picture = picture.float()
    if picture.shape[0] == channels:
        return picture
    if picture.shape[0] == 1 and channels == 3:
        return picture.expand(3, -1, -1)
    if picture.shape[0] == 3 and channels == 1:
        _tell_of_color(picture.detach().cpu().numpy())
        return (picture * picture.new_tensor(_LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    raise InputError(f"a picture of {picture.shape[0]} channels for a network of {channels}; pass {channels} channels")


def _tell_of_color(bands: np.ndarray[Any, Any]) -> None:
    """Say that the color of a picture (3, H, W) in [0, 1] is lost, if it has any to speak of."""
    if bands.ndim == 3 and len(bands) == 3 and float(np.ptp(bands, axis=0).mean()) > _COLORED:
        warn(
            "a picture in color is shown to a network of one channel by its brightness alone; of values that were "
            "drawn with a color map, as spectrograms are, save the values themselves, in gray"
        )


def preprocess(picture: Picture, view: View, *, channels: int = 3, interpolation: Interpolation = "bicubic") -> Tensor:
    """(C, h, w) in [0, 1]: what the network sees of a picture through a view.

    Both kinds of pictures are resized by Pillow, as classifiers are trained and published: those of 8 bits in 8 bits,
    float tensors in floats, band by band. A crop that leaves the picture is filled with black.
    """
    if picture_size(picture) != view.original:
        raise OptionError(f"a view of a {view.original} picture was laid on one of {picture_size(picture)}")
    picture = _eight_or_tensor(picture, channels)
    if isinstance(picture, Image.Image):
        return to_tensor(_resized_part(picture, view, interpolation), channels)
    return to_tensor(torch.stack([_resized_band(band, view, interpolation) for band in picture]), channels)


def _resized_part(picture: Image.Image, view: View, interpolation: Interpolation) -> Image.Image:
    """The crop of the resized picture; of a long thin one only what lies around the crop is resized."""
    size, box, (top, left) = _resizing(view)
    resized = picture.resize(size, _PIL_FILTERS[interpolation], box)
    return resized.crop((left, top, left + view.crop[3], top + view.crop[2]))


def _resized_band(band: Tensor, view: View, interpolation: Interpolation) -> Tensor:
    """(h, w) the same for one band of floats (H, W)."""
    size, box, (top, left) = _resizing(view)
    if view.scaled != view.original:
        image = Image.fromarray(band.detach().cpu().float().numpy())
        # First across, then down, and clipped after each: what Pillow does with 8 bits, without the rounding.
        for shape, part in (
            ((size[0], image.height), (box[0], 0, box[2], image.height)),
            ((size[0], size[1]), (0, box[1], size[0], box[3])),
        ):
            resized = image.resize(shape, _PIL_FILTERS[interpolation], part)
            image = Image.fromarray(np.asarray(resized).clip(0, 1))
        band = torch.from_numpy(np.array(image)).to(band.device)
    height, width = view.crop[2:]
    beyond = (max(0, -left), max(0, left + width - band.shape[1]), max(0, -top), max(0, top + height - band.shape[0]))
    top, left = max(0, top), max(0, left)
    return F.pad(band, beyond)[top : top + height, left : left + width]


def _resizing(view: View) -> tuple[tuple[int, int], tuple[float, float, float, float], tuple[int, int]]:
    """What Pillow is asked for: the new (width, height), the box that becomes it, and where the crop lies in it."""
    top, left, height, width = view.crop
    if view.scaled[0] * view.scaled[1] <= _MAX_RESIZED:
        return view.scaled[::-1], (0, 0, *view.original[::-1]), (top, left)
    rows = _with_margin(top, top + height, view.scaled[0], view.scale[0])
    columns = _with_margin(left, left + width, view.scaled[1], view.scale[1])
    box = (columns[0] * view.scale[1], rows[0] * view.scale[0], columns[1] * view.scale[1], rows[1] * view.scale[0])
    return (columns[1] - columns[0], rows[1] - rows[0]), box, (top - rows[0], left - columns[0])


def _with_margin(start: int, stop: int, length: int, scale: float) -> tuple[int, int]:
    """A stretch of resized pixels and as many around it as the widest filter reaches over."""
    reach = math.ceil(3 * max(1.0, 1.0 / scale)) + 1
    return max(0, start - reach), min(length, stop + reach)


def to_pil(picture: Picture) -> Image.Image:
    """The picture as an 8-bit RGB image for people to look at; of many channels the first three."""
    if isinstance(picture, Image.Image):
        return picture
    shown = picture.detach().float().cpu()
    shown = shown[:3] if shown.shape[0] >= 3 else shown[:1].expand(3, -1, -1)
    array = (shown.clamp(0, 1) * 255.0).round().to(torch.uint8).movedim(0, -1).numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The picture files in a folder and below, sorted by name; those of phosphene's own run folders and what
    is hidden (``._a.jpg`` of macOS, ``.ipynb_checkpoints``) are left out. Links to folders are followed, but for those
    that lead back.

    Raises:
        InputError: if the folder does not exist, is a run itself, or holds no picture file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is no folder; give the folder of the pictures"
            if folder.exists()
            else f"{folder}: no such folder"
        )
    if _is_run(folder):
        raise InputError(f"{folder}: is a run of phosphene; give the folder of the pictures themselves")
    paths = sorted(_pictures_below(folder, frozenset()))
    if not paths:
        raise no_picture(folder)
    return paths


def _pictures_below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """What is named like a picture in a folder that is no run, and in those below that are not above it as well."""
    real = os.path.realpath(folder)
    if real in above or _is_run(folder):
        return
    try:
        names = os.listdir(folder)
    except OSError as error:
        warn(f"{folder}: cannot be listed ({error.strerror}); it is left out")
        return
    for name in names:
        if name.startswith("."):
            continue
        path = folder / name
        if os.path.isdir(path):  # unlike Path.is_dir it says no of a link to itself
            yield from _pictures_below(path, above | {real})
        elif path.suffix.lower() in EXTENSIONS:
            yield path


def no_picture(folder: str | os.PathLike[str]) -> InputError:
    """The error of a folder without pictures."""
    kinds = ", ".join(sorted(EXTENSIONS))
    return InputError(f"{folder}: holds no picture file ({kinds}; arrays are named, as in 'tiles/*.npy')")


def _is_run(folder: Path) -> bool:
    try:
        with (folder / MANIFEST).open("rb") as file:
            return is_manifest_of_run(file.read(MANIFEST_HEAD))
    except OSError:
        return False


def expand_paths(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are, folders replaced by the pictures in them.

    What cannot be used (an empty folder, a name that is too long) stays as it is: read_image says what is wrong.
    """
    paths: list[Path] = []
    for source in sources:
        path = Path(source)
        try:
            paths += list_images(path) if path.is_dir() else [path]
        except (InputError, OSError):
            paths.append(path)
    return paths
