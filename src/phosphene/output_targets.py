"""Targets in outputs that are no row of scores: score maps of segmentation, boxes of detection, embeddings."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from phosphene.errors import ModelError, NotFoundError, OptionError
from phosphene.labels import Labels
from phosphene.targets import CommandOption, Named, Outputs, Target
from phosphene.types import Score

if TYPE_CHECKING:
    from torch import Tensor

# A box that overlaps by less is another object, as in D-RISE and in the published targets.
_SAME_OBJECT = 0.5


@dataclass(frozen=True)
class Mask:
    """A yes or no for each pixel that the network sees.

    Args:
        size: (height, width).
        bits: one byte for each pixel, row by row.

    Example:
        >>> Mask.of([[True, False]]).size
        (1, 2)
    """

    size: tuple[int, int]
    bits: bytes

    @classmethod
    def of(cls, values: Any) -> Mask:
        """The mask of an array, tensor or nested lists (H, W)."""
        import numpy as np

        if hasattr(values, "detach"):
            values = values.detach().cpu().to_dense().float().numpy()
        try:
            found = np.asarray(values)
        except ValueError:  # rows of several lengths
            found = np.asarray(None)
        if found.ndim != 2 or 0 in found.shape or found.dtype.kind not in "biuf" or not np.isfinite(found).all():
            raise OptionError(f"a mask of shape {found.shape}; give (height, width) numbers, 0 where it is not")
        return cls((int(found.shape[0]), int(found.shape[1])), (found != 0).astype("uint8").tobytes())

    def weights(self, size: tuple[int, int]) -> Tensor:
        """(h, w) in [0, 1]: the part of each cell of a grid over the picture that the mask covers."""
        import torch
        from torch.nn import functional as F

        found = torch.frombuffer(bytearray(self.bits), dtype=torch.uint8).view(1, 1, *self.size).float()
        return F.interpolate(found, size, mode="area")[0, 0]


@dataclass(frozen=True)
class Region(
    Target,
    kind="region",
    option=CommandOption(
        "CLASS[@ROW,COLUMN|@X0,Y0,X1,Y1]",
        "A class of a segmentation network in the whole picture, at a pixel or in a box of what it sees.",
    ),
):
    """A class in a part of a picture, for networks that return maps of scores (N, K, h, w).

    Its score is the mean over the part of the class's scores there, before any softmax.

    Args:
        category: the class, by index, or by name until a network says which it is.
        at: (row, column) of a pixel, or (x0, y0, x1, y1) of a box, in pixels of what the network sees; empty for all.
        masks: the part as a mask or an array (H, W), one for all images or one for each; empty for what `at` says.

    Example:
        >>> Region.parse("15@40,60")
        Region(category=15, at=(40.0, 60.0), masks=())
    """

    category: int | str
    at: tuple[float, ...] = ()
    masks: tuple[Mask, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "category", _category(self.category))
        object.__setattr__(self, "masks", _masks(self.masks))
        at = _numbers(self.at)
        if at is None or len(at) not in (0, 2, 4) or (at and self.masks):
            raise OptionError(f"region {self.at}: give (row, column), (x0, y0, x1, y1), masks, or nothing for all")
        object.__setattr__(self, "at", at)
        if len(self.at) == 4 and not (self.at[0] < self.at[2] and self.at[1] < self.at[3]):
            raise OptionError(f"box {self.at} is empty or turned round; give x0 < x1 and y0 < y1")

    def __str__(self) -> str:
        place = ",".join(f"{value:g}" for value in self.at) or ("a mask" if self.masks else "")
        return f"{self.category}@{place}" if place else str(self.category)

    @classmethod
    def parse(cls, text: str) -> Region:
        name, place = _class_and_numbers(text, (0, 2, 4))
        return cls(name, place)

    def label(self, labels: Labels) -> str:
        return _named(str(self), self.category, labels)

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        """The mean of the class's scores over the part."""
        import torch

        maps = outputs.reader.found(outputs.raw)
        if maps.ndim != 4:
            raise ModelError(
                f"{outputs.reader.name} returned scores of shape {tuple(maps.shape)}, no maps (N, K, h, w): a region "
                "is for segmentation networks; give a class"
            )
        index = _index(self.category, int(maps.shape[1]), outputs)
        rows, columns = int(maps.shape[2]), int(maps.shape[3])
        weights = torch.stack(self._weights((rows, columns), _size(outputs))).to(maps)  # (1 or N, h, w)
        if len(weights) not in (1, len(maps)):
            raise OptionError(f"{len(weights)} masks for {len(maps)} images; give one for all, or one for each")
        total = weights.sum(dim=(1, 2))
        if not bool((total > 0).all()):
            raise OptionError(f"the {self.kind} {self} holds no pixel; name a larger one")
        return (maps[:, index].float() * weights).sum(dim=(1, 2)) / total

    def _weights(self, cells: tuple[int, int], size: tuple[int, int]) -> list[Tensor]:
        import torch

        if self.masks:
            return [mask.weights(cells) for mask in self.masks]
        if not self.at:
            return [torch.ones(cells, device="cpu")]
        if len(self.at) == 2:
            top, left = self.at
            box = (left, top, left + 1, top + 1)
        else:
            box = (self.at[0], self.at[1], self.at[2], self.at[3])
        if box[0] < 0 or box[1] < 0 or box[2] > size[1] or box[3] > size[0]:
            raise OptionError(
                f"the {self.kind} {self} lies outside of the {size[0]} x {size[1]} pixels that the network sees"
            )
        found = torch.zeros(cells, device="cpu")
        top, bottom = (int(box[1] * cells[0] / size[0]), math.ceil(box[3] * cells[0] / size[0]))
        left, right = (int(box[0] * cells[1] / size[1]), math.ceil(box[2] * cells[1] / size[1]))
        found[top:bottom, left:right] = 1
        return [found]

    def of_rows(self, rows: slice) -> Region:
        return self if len(self.masks) < 2 else replace(self, masks=self.masks[rows])

    def found_in(self, network: Named) -> Region:
        return replace(self, category=_found(self.category, network.labels))

    def placed_in(self, network: Named) -> bool:
        return bool(self.at or self.masks)


@dataclass(frozen=True)
class Detected(
    Target,
    kind="object",
    option=CommandOption("CLASS@X0,Y0,X1,Y1", "An object of a detector: a class in a box, in pixels of what it sees."),
):
    """An object that a detector finds: of a class, where a box is.

    Its score is the greatest, over the boxes that the network returns, of overlap (intersection over union, at least
    one half) times the probability of the class there; 0 if there is none. With RISE that is D-RISE. Outputs are read
    as torchvision's detectors return them (a dict of boxes, labels and scores for each image) and as DETR and
    transformers do (logits and pred_boxes).

    Args:
        category: the class, by index, or by name until a network says which it is.
        box: (x0, y0, x1, y1) in pixels of what the network sees.

    Example:
        >>> Detected.parse("dog@10,20,110,220")
        Detected(category='dog', box=(10.0, 20.0, 110.0, 220.0))
    """

    category: int | str
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "category", _category(self.category))
        box = _numbers(self.box)
        if box is None or len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise OptionError(f"box {self.box} of an object: give (x0, y0, x1, y1) with x0 < x1 and y0 < y1")
        object.__setattr__(self, "box", box)

    def __str__(self) -> str:
        return f"{self.category}@{','.join(f'{value:g}' for value in self.box)}"

    @classmethod
    def parse(cls, text: str) -> Detected:
        name, box = _class_and_numbers(text, (4,))
        return cls(name, (box[0], box[1], box[2], box[3]))

    def label(self, labels: Labels) -> str:
        return _named(str(self), self.category, labels)

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        """Overlap times probability of the box that matches best."""
        import torch

        found = []
        for boxes, likely in _detections(outputs, self.category):
            overlap = _overlap(boxes, boxes.new_tensor(self.box))
            match = torch.where(overlap >= _SAME_OBJECT, overlap * likely, 0.0)
            # (a graph is there even if nothing was found: the slope is zero then)
            found.append(match.amax() if len(match) else likely.sum())
        return torch.stack(found).float()

    def found_in(self, network: Named) -> Detected:
        return replace(self, category=_found(self.category, network.labels))

    def placed_in(self, network: Named) -> bool:
        return True


@dataclass(frozen=True)
class Similar(
    Target,
    kind="similar",
    option=CommandOption("PICTURE", "How like a reference picture the network's output (an embedding) is."),
):
    """How like the output for another picture the output is: the cosine of the two rows (N, D).

    Args:
        reference: the output for the other picture, (D,) numbers, also as an array or tensor, or the path of the
            picture; empty until a network has seen it.
        path: of the other picture, where it is a file.

    Example:
        >>> Similar((0.0, 1.0)).scores(Outputs(None, given=torch.tensor([[3.0, 4.0]])))
        tensor([0.8000])
    """

    reference: tuple[float, ...] = ()
    path: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.reference, str | os.PathLike):
            object.__setattr__(self, "path", os.fspath(self.reference))
            object.__setattr__(self, "reference", ())
        reference = _numbers(self.reference)
        if reference is None:
            raise OptionError("similar to what? the output for a picture is one row of numbers, (D,)")
        object.__setattr__(self, "reference", reference)
        if not self.reference and not self.path:
            raise OptionError("similar to what? give the output for a picture, or the path of one")

    def __str__(self) -> str:
        return self.path or f"a reference of {len(self.reference)} values"

    @classmethod
    def parse(cls, text: str) -> Similar:
        return cls(path=text)

    def label(self, labels: Labels) -> str:
        return f"similar to {self}"

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        """The cosine with the reference."""
        from torch.nn import functional as F

        rows = outputs.logits
        if len(self.reference) != rows.shape[1]:
            raise OptionError(f"the reference has {len(self.reference)} values, the network's output {rows.shape[1]}")
        return F.cosine_similarity(rows, rows.new_tensor(self.reference)[None], dim=1)

    def found_in(self, network: Any) -> Similar:
        if self.reference:
            return self
        import torch

        from phosphene.images import read_image

        picture = read_image(self.path, **network.preprocess.reading)
        with torch.no_grad():
            row = network.logits(network.preprocessed([picture], network.views([picture])))[0]
        return replace(self, reference=tuple(row.float().tolist()))


def best_of_each(output: Any, count: int, name: str) -> Tensor:
    """(N, K) the probability of each class's best box, out of what a detector returned.

    Args:
        output: of the detector.
        count: of the classes, K; only needed where the output does not say.
        name: of the network.

    Raises:
        ModelError: for other outputs, or if nothing says how many classes there are.
    """
    import torch

    if isinstance(output, Mapping) and "pred_boxes" in output:
        return _of_each_box(output["logits"], count).amax(dim=1)
    if not _is_list_of_boxes(output):
        raise ModelError(
            f"{name} was given head='boxes', but returned no boxes as torchvision's detectors (boxes, labels, scores) "
            "or DETR (logits, pred_boxes) do"
        )
    if not count:
        raise ModelError(f"{name} finds boxes of classes whose number nothing says; give labels=")
    rows = []
    for item in output:
        row = item["scores"].new_zeros(count)
        rows.append(row.scatter_reduce(0, item["labels"].long(), item["scores"], "amax"))
    return torch.stack(rows)


def _of_each_box(logits: Tensor, count: int) -> Tensor:
    """(N, Q, K) the probabilities of each box's classes, out of DETR's logits, of which the last is "no object".

    Where there is one for each of the `count` labels and no more (Deformable and RT-DETR, D-FINE), by a sigmoid.
    """
    return logits.sigmoid() if logits.shape[-1] == count else logits.softmax(dim=-1)[..., :-1]


def _detections(outputs: Outputs, of: int | str) -> list[tuple[Tensor, Tensor]]:
    """Of each image (boxes (Q, 4) in pixels, the probability (Q,) of the class in each)."""
    import torch

    raw = outputs.raw
    if isinstance(raw, Mapping) and "pred_boxes" in raw and "logits" in raw:
        likely = _of_each_box(raw["logits"], len(outputs.reader.labels))
        index = _index(of, int(likely.shape[-1]), outputs)
        height, width = _size(outputs)
        centers, sides = raw["pred_boxes"].split(2, dim=-1)
        corners = torch.cat([centers - sides / 2, centers + sides / 2], dim=-1)
        boxes = corners * corners.new_tensor([width, height, width, height])
        return list(zip(boxes, likely[..., index], strict=True))
    if _is_list_of_boxes(raw):
        index = _index(of, None, outputs)
        return [(item["boxes"], torch.where(item["labels"] == index, item["scores"], 0.0)) for item in raw]
    raise ModelError(
        f"{outputs.reader.name} returned no boxes: an object is explained of detectors that return boxes, labels and "
        "scores for each image, or logits and pred_boxes"
    )


def _is_list_of_boxes(raw: Any) -> bool:
    keys = {"boxes", "labels", "scores"}
    return isinstance(raw, list) and bool(raw) and all(isinstance(item, Mapping) and keys <= set(item) for item in raw)


def _overlap(boxes: Tensor, box: Tensor) -> Tensor:
    """(Q,) intersection over union of boxes (Q, 4) with one."""
    import torch

    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) + (box[2:] - box[:2]).prod()
    return shared / (areas - shared)


def _class_and_numbers(text: str, counts: tuple[int, ...]) -> tuple[int | str, tuple[float, ...]]:
    """What CLASS@NUMBERS means."""
    name, _, rest = text.rpartition("@") if "@" in text else (text, "", "")
    try:
        numbers = tuple(float(part) for part in rest.split(",")) if rest else ()
    except ValueError:
        numbers = (math.nan,)
    if not name or len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        wanted = " or ".join(str(count) for count in counts)
        raise OptionError(f"{text}: write CLASS@ and {wanted} numbers with commas, in pixels")
    return int(name) if name.isdigit() else name, numbers


def _numbers(values: Any) -> tuple[float, ...] | None:
    """A row of finite numbers, of whatever holds them; None for what is none."""
    try:
        row = values.tolist() if hasattr(values, "tolist") else values
        numbers = () if isinstance(row, str) else tuple(float(value) for value in row)
    except (TypeError, ValueError):
        return None
    return numbers if not isinstance(row, str) and all(map(math.isfinite, numbers)) else None


def _category(of: Any) -> int | str:
    """The index or the name of a class."""
    if isinstance(of, str):
        return of
    if isinstance(of, bool) or not hasattr(of, "__index__"):
        raise OptionError(f"class {of!r} is no index and no name; give a whole number, or its name")
    return operator.index(of)


def _masks(given: Any) -> tuple[Mask, ...]:
    """Masks, of which one stands for all images, also as arrays."""
    if given is None:
        return ()
    if isinstance(given, Mask) or getattr(given, "ndim", 3) != 3:
        given = (given,)
    try:
        return tuple(one if isinstance(one, Mask) else Mask.of(one) for one in given)
    except TypeError:
        raise OptionError(
            f"masks of type {type(given).__name__}; give one (height, width), or one for each image"
        ) from None


def _found(of: int | str, labels: Labels) -> int:
    return labels.find(of) if isinstance(of, str) else of


def _index(of: int | str, count: int | None, outputs: Outputs) -> int:
    if isinstance(of, str):
        raise OptionError(f"class {of!r} is a name; look it up first: classifier.labels.find({of!r})")
    if count is not None and not 0 <= of < count:
        raise NotFoundError(f"no class {of}; {outputs.reader.name} has {count} classes, 0 to {count - 1}")
    return of


def _named(text: str, of: int | str, labels: Labels) -> str:
    """The text with the name of a class for its index."""
    return text if isinstance(of, str) or not labels else labels[of] + text.removeprefix(str(of))


def _size(outputs: Outputs) -> tuple[int, int]:
    """(height, width) of the images that the network saw."""
    assert outputs.images is not None
    return int(outputs.images.shape[-2]), int(outputs.images.shape[-1])
