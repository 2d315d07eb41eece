"""Pictures in and out: files, PIL images, arrays and tensors, read safely; knows no model.

Inside phosphene a picture is either a PIL image (8 bits, RGB or grey) or a float tensor (C, H, W) in [0, 1].
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from phosphene.errors import InputError, OptionError
from phosphene.types import Size, View

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
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif"})


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in a file as 8-bit RGB, upright (EXIF honoured); of an animation the first frame.

    Transparent pixels are laid on white; 16-bit and float files are scaled to 8 bits.

    Args:
        path: a file in any format that Pillow reads.

    Raises:
        InputError: one line that names the file: missing, a directory, empty, not an image, damaged, too large.
    """
    path = Path(path)
    _check_file(path)
    try:
        # Pillow turns some damage into warnings; what it can still read is fine by us.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(
                        f"{path}: {image.width} x {image.height} pixels is more than the {MAX_PIXELS:,} "
                        "that are read; make a smaller copy"
                    )
                image.seek(0)
                image.load()
                return to_rgb(_upright(image))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{path}: claims more than {MAX_PIXELS:,} pixels; make a smaller copy") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that can be read ({_first_bytes(path)})") from None
    except MemoryError:
        raise InputError(f"{path}: too large for this machine's memory; make a smaller copy") from None
    except Exception as error:  # a damaged file may raise anything in a decoder
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise InputError(f"{path}: damaged or cut short ({reason})") from None


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a directory, and no picture; give a folder of pictures, or a picture")
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if not path.is_file():
            raise InputError(f"{path}: not a regular file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes)")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None


def _first_bytes(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    return "it begins with " + repr(head)[1:]


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data must not cost the picture
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB: alpha on white, 16-bit and float scaled."""
    if image.mode == "RGB":
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode == "F" and values.max(initial=0.0) <= 1.0:
        ceiling = 1.0
    else:
        ceiling = 255.0 if values.max(initial=0.0) <= 255.0 and image.mode == "F" else 65535.0
    return Image.fromarray((values / ceiling * 255.0).round().clip(0, 255).astype(np.uint8))


def as_pictures(source: Any) -> list[Picture]:
    """One or many pictures from a path, PIL image, array or tensor, or a sequence of these.

    Args:
        source: a path, a PIL image, an array (H, W), (H, W, C) or (N, H, W, C), uint8 or float in [0, 1],
            a tensor (C, H, W) or (N, C, H, W), uint8 or float in [0, 1], or a list of any of them.

    Raises:
        InputError: naming what was got and what is possible.
    """
    if isinstance(source, str | os.PathLike):
        return [read_image(source)]
    if isinstance(source, Image.Image):
        return [to_rgb(_upright(source))]
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, Iterable):
        pictures = [picture for item in source for picture in as_pictures(item)]
        if not pictures:
            raise InputError("no pictures were given; pass at least one")
        return pictures
    raise InputError(f"a picture of type {type(source).__name__}; pass a path, a PIL image, an array or a tensor")


def _from_array(array: np.ndarray[Any, Any]) -> list[Picture]:
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise InputError(f"an array of shape {array.shape}; pass (H, W), (H, W, C) or (N, H, W, C)")
    if array.dtype.kind not in "biuf":
        raise InputError(f"a picture of type {array.dtype}; pass uint8 in 0..255 or float in [0, 1]")
    if array.ndim == 4:
        return [picture for item in array for picture in _from_array(item)]
    if array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2] in (3, 4)):
        return [to_rgb(Image.fromarray(np.ascontiguousarray(array)))]
    # A copy of its own: torch takes neither foreign byte orders nor read-only memory.
    tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    tensor = tensor[None] if array.ndim == 2 else tensor.movedim(-1, 0)
    return _from_tensor(tensor)


def _from_tensor(tensor: Tensor) -> list[Picture]:
    if tensor.ndim not in (3, 4) or 0 in tensor.shape:
        raise InputError(f"a tensor of shape {tuple(tensor.shape)}; pass (C, H, W) or (N, C, H, W)")
    if tensor.ndim == 4:
        return [picture for item in tensor for picture in _from_tensor(item)]
    if tensor.dtype == torch.uint8:
        return [tensor.float() / 255.0]
    if not tensor.is_floating_point():
        raise InputError(f"a picture of type {tensor.dtype}; pass uint8 in 0..255 or float in [0, 1]")
    tensor = tensor.detach().float()
    low, high = tensor.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise InputError("a picture holds NaN or infinity; pass values in [0, 1]")
    if low < -1e-3 or high > 1 + 1e-3:
        raise InputError(
            f"a float picture has values from {low:.3g} to {high:.3g}; pass [0, 1], not normalised "
            "(the classifier normalises by itself)"
        )
    return [tensor.clamp(0.0, 1.0)]


def picture_size(picture: Picture) -> tuple[int, int]:
    """(height, width) in pixels."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return int(picture.shape[-2]), int(picture.shape[-1])


def to_tensor(picture: Picture, channels: int = 3) -> Tensor:
    """(C, H, W) float32 in [0, 1] with the wanted number of channels.

    Raises:
        InputError: if the channels cannot be had from the picture.
    """
    if isinstance(picture, Image.Image):
        if channels == 1:
            picture = picture.convert("L")
        array = np.asarray(picture)
        tensor = torch.from_numpy(np.array(array if array.ndim == 3 else array[..., None])).movedim(-1, 0)
        picture = tensor.float() / 255.0
    if picture.shape[0] == channels:
        return picture.float()
    if picture.shape[0] == 1:
        return picture.float().expand(channels, -1, -1)
    raise InputError(f"a picture of {picture.shape[0]} channels for a network of {channels}; pass {channels} channels")


def look(picture: Picture, view: View, *, channels: int = 3, interpolation: Interpolation = "bicubic") -> Tensor:
    """(C, h, w) in [0, 1]: what the network sees of a picture through a view.

    Eight-bit pictures are resized by Pillow, as classifiers are trained and published; float tensors by
    antialiased interpolation. A crop that leaves the picture is filled with black.
    """
    if picture_size(picture) != view.original:
        raise OptionError(f"a view of a {view.original} picture was laid on one of {picture_size(picture)}")
    top, left, height, width = view.crop
    if isinstance(picture, Image.Image):
        return to_tensor(_resized_part(picture, view, interpolation), channels)
    if view.scaled[0] * view.scaled[1] > _MAX_RESIZED:
        raise InputError(
            f"a picture of {view.original[0]} x {view.original[1]} is too long and thin for this view; "
            "use view whole, or cut it first"
        )
    seen = resize(to_tensor(picture, channels), view.scaled, interpolation)
    if (top, left, height, width) == (0, 0, *view.scaled):
        return seen
    pad = (max(0, -left), max(0, left + width - view.scaled[1]), max(0, -top), max(0, top + height - view.scaled[0]))
    seen = F.pad(seen, pad)
    top, left = max(0, top), max(0, left)
    return seen[:, top : top + height, left : left + width]


def _resized_part(picture: Image.Image, view: View, interpolation: Interpolation) -> Image.Image:
    """The crop of the resized picture; of a long thin one only what lies around the crop is resized."""
    top, left, height, width = view.crop
    rows, columns = (0, view.scaled[0]), (0, view.scaled[1])
    if view.scaled[0] * view.scaled[1] > _MAX_RESIZED:
        rows = _with_margin(top, top + height, view.scaled[0], view.scale[0])
        columns = _with_margin(left, left + width, view.scaled[1], view.scale[1])
    box = (columns[0] * view.scale[1], rows[0] * view.scale[0], columns[1] * view.scale[1], rows[1] * view.scale[0])
    size = (columns[1] - columns[0], rows[1] - rows[0])
    whole = size == (view.scaled[1], view.scaled[0])
    resized = picture.resize(size, _PIL_FILTERS[interpolation], None if whole else box)
    top, left = top - rows[0], left - columns[0]
    return resized.crop((left, top, left + width, top + height))


def _with_margin(start: int, stop: int, length: int, scale: float) -> tuple[int, int]:
    """A stretch of resized pixels and as many around it as the widest filter reaches over."""
    reach = math.ceil(3 * max(1.0, 1.0 / scale)) + 1
    return max(0, start - reach), min(length, stop + reach)


def resize(image: Tensor, size: Size, interpolation: Interpolation = "bicubic") -> Tensor:
    """(C, H, W) resized with antialiasing, kept inside [0, 1]."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if interpolation == "nearest":
        return F.interpolate(image[None], size, mode="nearest-exact")[0]
    mode = "bilinear" if interpolation == "bilinear" else "bicubic"
    return F.interpolate(image[None], size, mode=mode, antialias=True, align_corners=False)[0].clamp(0, 1)


def to_pil(picture: Picture) -> Image.Image:
    """The picture as an 8-bit RGB image for people to look at; of many channels the first three."""
    if isinstance(picture, Image.Image):
        return picture
    shown = picture.detach().float().cpu()
    shown = shown[:3] if shown.shape[0] >= 3 else shown[:1].expand(3, -1, -1)
    array = (shown.clamp(0, 1) * 255.0).round().to(torch.uint8).movedim(0, -1).numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The picture files in a folder and below, sorted by name.

    Raises:
        InputError: if the folder does not exist or holds no picture file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not paths:
        kinds = ", ".join(sorted(EXTENSIONS))
        raise InputError(f"{folder}: holds no picture file ({kinds})")
    return paths


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
