"""True boxes from a table, from ILSVRC's XML files, or from COCO's JSON."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from phosphene.classifier import Labels
from phosphene.errors import InputError, NotFoundError, OptionError
from phosphene.path_match import PathMatcher
from phosphene.types import Box, Size

_COLUMNS = ("file", "x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Truth:
    """The instances of one class in one picture.

    Args:
        path: of the picture.
        index: of the class.
        boxes: of its instances, in pixels of the picture, half-open.
        size: (height, width) of the picture that the boxes were drawn on, if it is told.
    """

    path: Path
    index: int
    boxes: tuple[Box, ...]
    size: Size | None = None


@dataclass(frozen=True)
class _Line:
    """One instance as the file tells it; `beside` is the picture's path if it lies as its own file of boxes does."""

    file: str
    category: int | str  # an index, or a name or identifier
    box: Box
    size: Size | None
    beside: str | None = None


def read_truth(
    source: str | os.PathLike[str],
    images: Sequence[Path],
    labels: Labels,
    folder: str | os.PathLike[str] | None = None,
) -> list[Truth]:
    """The true boxes of the pictures that are there, one Truth per picture and class, in the order of the pictures.

    Args:
        source: a CSV file, of commas, semicolons or tabs, with the columns file, class_index (or wnid, or class), x0,
            y0, x1, y1 and perhaps width and height, in pixels, half-open, one row per instance; a folder of ILSVRC
            (Pascal VOC) XML files, whose corners are counted from 1 and belong to the box; or COCO JSON, whose
            categories are named by class name or WordNet id.
        images: picture files; matched by their paths within `folder`, with or without their endings: of a picture's
            path and the name in the file one has to be the end of the other, folder by folder.
        labels: of the classifier.
        folder: that the pictures lie in; None for the one that they have in common.

    Raises:
        InputError: if the file cannot be read, naming the line; if no picture of it is there; or if a name fits
            several pictures, or a picture several names.

    References:
        russakovsky2015.
    """
    source = Path(source)
    try:
        lines = list(_lines(source))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not lines:
        raise InputError(f"{source}: holds no boxes")
    pictures = _pictures_of(source, lines, images, folder)
    found: dict[tuple[Path, int], list[_Line]] = {}
    known: dict[int | str, int] = {}
    for line in lines:
        path_found = pictures.get(line)
        if path_found is None:
            continue
        if line.category not in known:
            known[line.category] = _class_of(line.category, labels, source)
        found.setdefault((path_found, known[line.category]), []).append(line)
    if not found:
        raise InputError(
            f"{source}: none of its pictures is among the {len(images)} given (it begins with '{lines[0].file}')"
        )
    order = {path: position for position, path in enumerate(images)}
    return [
        Truth(path, index, tuple(line.box for line in rows), rows[0].size)
        for (path, index), rows in sorted(found.items(), key=lambda item: (order[item[0][0]], item[0][1]))
    ]


def _pictures_of(
    source: Path, lines: Sequence[_Line], images: Sequence[Path], folder: str | os.PathLike[str] | None
) -> dict[_Line, Path]:
    """The picture of each line that has one."""
    if not images:
        return {}
    base = os.path.commonpath([path.parent for path in images]) if folder is None else folder
    within = {os.path.relpath(path, base): path for path in images}
    matcher = PathMatcher(within)
    try:
        beside = matcher.match(line.beside for line in lines if line.beside is not None)
        found = matcher.match(line.file for line in lines if line.beside not in beside)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    paths = ((line, beside.get(line.beside or "", found.get(line.file))) for line in lines)
    return {line: within[path] for line, path in paths if path is not None}


def _class_of(category: int | str, labels: Labels, source: Path) -> int:
    try:
        return labels.find(category, part=False)
    except NotFoundError as error:
        raise InputError(f"{source}: {error}") from None


def _lines(source: Path) -> Iterator[_Line]:
    if source.is_dir():
        files = sorted(source.rglob("*.xml"))
        if not files:
            raise InputError(f"{source}: holds no XML file; give such a folder, a CSV file or COCO JSON")
        return (line for file in files for line in _xml_lines(file, file.relative_to(source).parent))
    if source.suffix.lower() == ".json":
        return _coco_lines(source)
    if source.suffix.lower() == ".xml":
        return _xml_lines(source)
    return _csv_lines(source)


def _csv_lines(source: Path) -> Iterator[_Line]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        head = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=head.count))
        columns = reader.fieldnames or []
        category = next((name for name in ("class_index", "wnid", "class") if name in columns), None)
        missing = [name for name in _COLUMNS if name not in columns]
        if missing or category is None:
            wanted = ", ".join([*missing, *(["class_index (or wnid, or class)"] if category is None else [])])
            raise InputError(f"{source}: a table without the column {wanted} (it has: {', '.join(columns) or 'none'})")
        for row in reader:
            where = f"{source}, line {reader.line_num}"
            corners = [_number(row[name], where) for name in _COLUMNS[1:]]
            size = None
            if row.get("width") and row.get("height"):
                size = (int(_number(row["height"], where)), int(_number(row["width"], where)))
            yield _Line(row["file"], _category(row[category], category), _box(corners, where), size)


def _category(text: Any, column: str) -> int | str:
    """What a column says of a class: a whole number in the one of indices is never a name."""
    written = str(text).strip()
    return int(written) if column == "class_index" and written.isascii() and written.isdigit() else written


def _number(text: Any, where: str) -> float:
    if text is None:
        raise InputError(f"{where}: the line ends before its box; give file, class, x0, y0, x1 and y1")
    try:
        return float(text)
    except (TypeError, ValueError):
        raise InputError(f"{where}: '{text}' is not a number") from None


def _box(corners: Sequence[float], where: str) -> Box:
    try:
        return Box(*corners)
    except (OptionError, TypeError) as error:
        raise InputError(f"{where}: {error}") from None


def _xml_lines(file: Path, folder: Path = Path()) -> Iterator[_Line]:
    text = file.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise InputError(f"{file}: declares a document type of its own, which could grow without limit; remove it")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{file}: is no XML ({error})") from None
    size = root.find("size")
    shape = None if size is None else (int(_text(size, "height", file)), int(_text(size, "width", file)))
    for item in root.iter("object"):
        corners = item.find("bndbox")
        if corners is None:
            raise InputError(f"{file}: an object without bndbox")
        x0, y0, x1, y1 = (_number(_text(corners, name, file), str(file)) for name in ("xmin", "ymin", "xmax", "ymax"))
        box = _box((max(0.0, x0 - 1), max(0.0, y0 - 1), x1, y1), str(file))
        name = root.findtext("filename") or file.stem
        yield _Line(name, _text(item, "name", file), box, shape, (folder / name).as_posix())


def _text(parent: ElementTree.Element, name: str, file: Path) -> str:
    text = parent.findtext(name)
    if not text:
        raise InputError(f"{file}: '{parent.tag}' without '{name}'")
    return text.strip()


def _coco_lines(source: Path) -> Iterator[_Line]:
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
        pictures = {item["id"]: item for item in data["images"]}
        names = {item["id"]: str(item.get("wnid") or item["name"]) for item in data["categories"]}
        for item in data["annotations"]:
            for key, known in (("image_id", pictures), ("category_id", names)):
                if item[key] not in known:
                    raise InputError(f"{source}, annotation {item.get('id')}: {key} {item[key]} is not in the file")
            picture = pictures[item["image_id"]]
            x, y, width, height = item["bbox"]
            size = (picture["height"], picture["width"]) if {"height", "width"} <= picture.keys() else None
            box = _box((x, y, x + width, y + height), f"{source}, annotation {item.get('id')}")
            yield _Line(picture["file_name"], names[item["category_id"]], box, size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source}: is no COCO JSON ({type(error).__name__}: {error})") from None
