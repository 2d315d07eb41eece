"""The rows of runs: one frozen dataclass for each kind, with the keys of the commands' JSON as fields.

A file that belongs to a row is an Asset until a sink has written it, then its path within the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phosphene.types import Display, Prediction, View

Status = Literal["ok", "error"]


@dataclass(frozen=True, eq=False)
class Asset:
    """A file of a run that is not written yet.

    Args:
        name: its path within the run; the ending says the format (.npy, .png, .jpg, .webp, .json, .txt).
        content: an array, a picture, text or bytes.
        options: for the writer of pictures, such as quality.
    """

    name: str
    content: NDArray[Any] | Image.Image | str | bytes
    options: Mapping[str, Any] = field(default_factory=dict)


# A file of a row: to be written, or written.
File = Asset | PurePath


# Of a field that JSON leaves out where there is nothing to say.
ABSENT = {"absent": True}


@dataclass(frozen=True)
class Row:
    """What all rows have: the key by which the plan knows them."""

    key: str

    # Filled in by row_kind: the name of the kind, and the key under which the JSON of a run lists its rows.
    kind: ClassVar[str] = ""
    listing: ClassVar[str] = ""


ROW_KINDS: dict[str, type[Row]] = {}
RowKind = TypeVar("RowKind", bound=type[Row])


def row_kind(name: str, listing: str) -> Callable[[RowKind], RowKind]:
    """Name a kind of row and the list of its rows; no name for rows that no answer lists.

    Example:
        >>> ROW_KINDS["predict"].listing
        'images'
    """

    def decorate(kind: RowKind) -> RowKind:
        kind.kind, kind.listing = name, listing
        ROW_KINDS[name] = kind
        return kind

    return decorate


@dataclass(frozen=True)
class Versus:
    """The class that a target is told apart from."""

    index: int
    label: str


@dataclass(frozen=True)
class TargetRow:
    """What a map explains: a class, or a unit (index None)."""

    index: int | None
    label: str
    versus: Versus | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class Grid:
    """Where the cells of a map lie, in network pixels: centre of the first, steps, and size of the image."""

    offset: tuple[float, float]
    stride: tuple[float, float]
    size: tuple[int, int]


@dataclass(frozen=True)
class ScaleRow:
    """What the colors of a map mean."""

    low: float
    high: float
    display: str
    over: str = "image"
    text: str = ""
    floor: float = 0.0


@dataclass(frozen=True)
class MapRow:
    """One map of one picture: method and target, its values, and pictures of it."""

    method: str
    target: TargetRow
    status: Status = "ok"
    error: str | None = None
    layer: str | None = None
    score: float | None = None
    probability: float | None = field(default=None, metadata=ABSENT)
    map: File | None = None
    overlay: File | None = None
    seconds: float | None = None
    title: str = ""
    caveat: str = ""
    grid: Grid | None = field(default=None, metadata=ABSENT)
    view: View | None = field(default=None, metadata=ABSENT)
    signed: bool | None = field(default=None, metadata=ABSENT)
    display: Display | None = field(default=None, metadata=ABSENT)
    checks: Mapping[str, float | None] | None = field(default=None, metadata=ABSENT)
    notes: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    evidence: File | None = field(default=None, metadata=ABSENT)
    reconstruction: File | None = field(default=None, metadata=ABSENT)
    heat: File | None = field(default=None, metadata=ABSENT)
    opaque: File | None = field(default=None, metadata=ABSENT)
    colorbar: File | None = field(default=None, metadata=ABSENT)
    scale: ScaleRow | None = field(default=None, metadata=ABSENT)
    beside: tuple[MapRow, ...] | None = field(default=None, metadata=ABSENT)
    contrast: File | None = field(default=None, metadata=ABSENT)


@row_kind("explain", "images")
@dataclass(frozen=True)
class ExplainRow(Row):
    """One picture: what the network says of it, and its maps."""

    path: str
    status: Status = "ok"
    error: str | None = None
    predicted: tuple[Prediction, ...] = ()
    maps: tuple[MapRow, ...] = ()
    size: tuple[int, int] | None = field(default=None, metadata=ABSENT)
    seen: tuple[float, float, float, float] | None = field(default=None, metadata=ABSENT)
    picture: File | None = field(default=None, metadata=ABSENT)
    label: str | None = field(default=None, metadata=ABSENT)
    columns: Mapping[str, Any] | None = field(default=None, metadata=ABSENT)


@row_kind("predict", "images")
@dataclass(frozen=True)
class PredictRow(Row):
    """One picture: what the network says of it."""

    path: str
    status: Status = "ok"
    error: str | None = None
    predicted: tuple[Prediction, ...] = ()
    size: tuple[int, int] | None = field(default=None, metadata=ABSENT)
    seconds: float | None = field(default=None, metadata=ABSENT)
    label: str | None = field(default=None, metadata=ABSENT)
    columns: Mapping[str, Any] | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class ObjectRow:
    """One object in one picture: class, box in pixels, mask."""

    index: int
    label: str
    probability: float
    box: tuple[float, float, float, float]
    mask: File | None = None
    map: File | None = None
    steps: File | None = field(default=None, metadata=ABSENT)
    point: tuple[float, float] | None = field(default=None, metadata=ABSENT)
    area: int | None = field(default=None, metadata=ABSENT)


@row_kind("locate", "images")
@dataclass(frozen=True)
class LocateRow(Row):
    """One picture: the objects found in it."""

    path: str
    status: Status = "ok"
    error: str | None = None
    objects: tuple[ObjectRow, ...] = ()
    size: tuple[int, int] | None = field(default=None, metadata=ABSENT)
    overlay: File | None = field(default=None, metadata=ABSENT)
    predicted: tuple[Prediction, ...] | None = field(default=None, metadata=ABSENT)
    method: str | None = field(default=None, metadata=ABSENT)
    notes: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    seconds: float | None = field(default=None, metadata=ABSENT)
    label: str | None = field(default=None, metadata=ABSENT)
    columns: Mapping[str, Any] | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class JudgeRow:
    """How a second network reads an impression."""

    model: str
    top1: bool
    top5: bool
    probability: float
    classes: tuple[Prediction, ...] = ()
    best: tuple[Prediction, ...] = ()
    coverage: float | None = None
    object_count: int | None = None


@dataclass(frozen=True)
class Curve:
    """A value at some of the steps, one line for each class."""

    kind: str
    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]


@row_kind("impress", "impressions")
@dataclass(frozen=True)
class ImpressionRow(Row):
    """One image made from a classifier, of a class, several, or a unit."""

    classes: tuple[Prediction, ...]
    image: File
    recipe: str
    preset: str
    steps: int
    seconds: float
    seed: int
    status: Literal["ok", "stopped"] = "ok"
    unit: str | None = None
    entropy: float | None = None
    title: str = ""
    single_object_index: float | None = None
    object_count: int | None = None
    judge: JudgeRow | None = None
    curve: Curve | None = None
    strip: File | None = None
    animation: File | None = None
    pre_ci: File | None = None
    center: tuple[int, int] | None = None
    radius: float | None = None
    data_free: bool = True
    bands: File | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class Exemplar:
    """A picture that stands for a facet."""

    path: str
    weight: float
    distance: float | None = None
    cosine: float | None = None
    picture: File | None = None


@dataclass(frozen=True)
class FacetRow:
    """One facet of a layer: its exemplars, and the image drawn for it."""

    image: File
    exemplars: tuple[Exemplar, ...] = ()
    channels: tuple[int, ...] = ()
    target_cosine: float | None = None
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    start: File | None = field(default=None, metadata=ABSENT)
    strip: File | None = field(default=None, metadata=ABSENT)
    spokes: File | None = field(default=None, metadata=ABSENT)
    color: str | None = field(default=None, metadata=ABSENT)
    members: int | None = field(default=None, metadata=ABSENT)
    activations: Mapping[str, tuple[float, ...]] | None = field(default=None, metadata=ABSENT)
    start_cosine: float | None = field(default=None, metadata=ABSENT)
    predicted: tuple[Prediction, ...] | None = field(default=None, metadata=ABSENT)
    bands: File | None = field(default=None, metadata=ABSENT)


@row_kind("features", "layers")
@dataclass(frozen=True)
class FeatureRow(Row):
    """One layer: the facets of what it responds to."""

    layer: str
    facets: tuple[FacetRow, ...] = ()
    previous: str | None = None
    shape: tuple[int, ...] = ()
    recipe: str = ""
    steps: int = 0
    seconds: float = 0.0
    seconds_per_step_and_facet: float | None = None
    notes: tuple[str, ...] = ()
    map: File | None = None
    points: File | None = None


@dataclass(frozen=True)
class ChannelRow:
    """What one channel shows for one picture."""

    index: int
    mean: float
    max: float
    zeros: float | None = field(default=None, metadata=ABSENT)
    drawn: bool | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class ChannelScale:
    """The values that the ends of the gray scale stand for."""

    shared: bool
    low: float
    high: float


@row_kind("activations", "layers")
@dataclass(frozen=True)
class ActivationRow(Row):
    """One layer of one picture: its channels, drawn and as an array."""

    layer: str
    shape: tuple[int, ...]
    channels: tuple[ChannelRow, ...] = ()
    picture: File | None = None
    array: File | None = None
    scale: ChannelScale | None = field(default=None, metadata=ABSENT)


@row_kind("piece", "")
@dataclass(frozen=True)
class PieceRow(Row):
    """A part of an evaluation, such as what one method got on a few pictures; no answer lists it.

    Args:
        key: what was measured, in words.
        values: JSON; a null among them is a number that is none.
        arrays: by name; those that only a run on its way needs are gone when it is complete.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, File] = field(default_factory=dict)


def as_array(file: File | None) -> NDArray[Any] | None:
    """The values of an asset that is an array or a picture; None where there are none in memory."""
    if not isinstance(file, Asset) or isinstance(file.content, str | bytes):
        return None
    return np.asarray(file.content)
