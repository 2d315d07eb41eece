"""report.html: all of a run in one file that opens from disk without a network, or an index of pages beside it."""

from __future__ import annotations

import base64
import math
import mimetypes
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError, select_autoescape
from markupsafe import Markup

from phosphene.errors import InputError, OptionError, reason
from phosphene.files import is_url
from phosphene.report.sharded import sharded_report
from phosphene.store import Run, RunFolder, open_run, read_manifest
from phosphene.types import ReportMode as ReportMode
from phosphene.types import is_score

# Bytes of the pictures in one file, as text: browsers open more only slowly, and mail takes it no longer.
LARGEST = 20_000_000
_ROWS_A_PAGE = 20
# Pages that are not the first, within the run.
_PAGES = "report"


def write_report(
    run: str | os.PathLike[str], mode: ReportMode | None = None, *, name: str = "report.html"
) -> Path | None:
    """Write report.html into a run folder, finished or not, from its rows and pictures alone; the file's path.

    As pages report.html is an index of all rows, with pages of a few rows in the folder `report`; pictures stay the
    files that they are.

    Args:
        run: the folder.
        mode: "single" for one file with all pictures in it, "pages"; None for one file if its pictures take no more
            than 20 MB, else pages; "none" writes nothing and gives None.
        name: of the file, for a run without rows.

    Raises:
        InputError: if the folder is no run, of a kind that has no report, or damaged.
        OutputError: if the file cannot be written.
    """
    if mode == "none":
        return None
    place = os.fspath(run)
    found = open_run(place if is_url(place) else os.path.abspath(place))
    folder = Path(run).absolute()
    templates = _templates()
    if "shards" in found.manifest:
        if mode == "single":
            raise OptionError(f"{run}: the report of a run in shards is not one file; leave --report away")
        return _write_sharded(found, templates)
    template = f"{found.command}.html.j2"
    if template not in templates.list_templates():
        raise InputError(f"{run}: a run of '{found.command}' has no report")
    if found.listing is None and "plan" in found.manifest and not found.is_complete:
        raise InputError(f"{run}: was stopped before there was anything to tell; go on with it by --resume")
    known: dict[str, Any] = {"run": read_manifest(folder), "missing": found.missing or (), "page": None}
    try:
        _name_rows(known["run"][found.listing] if found.listing else ())
        pages = None if mode == "pages" else _single(templates, template, known, folder, None if mode else LARGEST)
        if pages is None:
            pages = _paged(templates, template, known, folder, found.listing)
    except (OSError, TypeError, LookupError, ValueError, AttributeError, UndefinedError) as error:
        raise InputError(f"{run}: the run is damaged ({error}); run the command again") from None
    written = RunFolder(folder, found.command)
    for file, text in pages.items():
        written.save_text(name if file == "report.html" else file, text)
    for old in (folder / _PAGES).glob("page-*.html"):
        if f"{_PAGES}/{old.name}" not in pages:
            old.unlink()
    return folder / name


def _write_sharded(run: Run, templates: Environment) -> Path:
    """Write the report of a run in shards, file by file as they are made."""
    if is_url(run.place):
        raise InputError(f"{run.place}: a report is written beside the shards, on a disk; copy the run first")
    written = RunFolder(Path(run.place), run.command)
    names = set()
    for name, text in sharded_report(run, templates):
        names.add(name)
        written.save_text(name, text)
    for old in (Path(run.place) / _PAGES).glob("rows-*.js"):
        if f"{_PAGES}/{old.name}" not in names:
            old.unlink()
    return Path(run.place) / "report.html"


def _single(
    templates: Environment, name: str, known: dict[str, Any], folder: Path, largest: int | None
) -> dict[str, str] | None:
    """The report as one file; None if its pictures take more bytes than `largest`."""
    left = [math.inf if largest is None else largest]

    def embed(file: str) -> str:
        text = data_uri(folder, file)
        left[0] -= len(text)
        if left[0] < 0:
            raise _TooLargeError
        return text

    try:
        return {"report.html": templates.get_template(name).render(embed=embed, **known)}
    except _TooLargeError:
        return None


class _TooLargeError(Exception):
    """The pictures of a report do not fit in one file."""


def _paged(
    templates: Environment, name: str, known: dict[str, Any], folder: Path, listing: str | None
) -> dict[str, str]:
    """The report as an index and pages of a few rows, by file; of a run without rows one page beside its pictures."""
    template, run = templates.get_template(name), known["run"]
    if listing is None:
        return {"report.html": template.render(embed=partial(_link, folder, ""), **known)}
    rows = run[listing]
    starts = range(0, len(rows), _ROWS_A_PAGE)
    files = [f"{_PAGES}/page-{number + 1:04d}.html" for number in range(len(starts))]
    pages: dict[str, str] = {}
    for number, (start, file) in enumerate(zip(starts, files, strict=True)):
        part = {**run, listing: rows[start : start + _ROWS_A_PAGE]}
        page = {"number": number + 1, "count": len(files), "rows": len(rows)}
        own = {**known, "run": part, "missing": (), "page": page}
        pages[file] = template.render(embed=partial(_link, folder, "../"), **own)
    entries = [
        _entry(row, f"{files[index // _ROWS_A_PAGE]}#row-{index % _ROWS_A_PAGE}") for index, row in enumerate(rows)
    ]
    index = templates.get_template("index.html.j2")
    # The index last: it names pages that are there.
    return {
        **pages,
        "report.html": index.render(entries=entries, listing=listing, embed=partial(_link, folder, ""), **known),
    }


def _entry(row: Mapping[str, Any], link: str) -> dict[str, Any]:
    """What the index says of a row of any kind."""
    objects = [found["label"] for found in row.get("objects", ())]
    first = [best["label"] for best in (*row.get("predicted", ()), *row.get("classes", ()))[:1]]
    name = _row_name(row)
    return {
        "link": link,
        "name": row.get("named") or name.replace("\\", "/").rpartition("/")[2],
        "path": row.get("path", ""),
        "text": ", ".join(objects or first),
        "error": row.get("error"),
        "sure": _sure(row),
        "picture": row.get("picture") or row.get("overlay") or row.get("image") or row.get("map"),
    }


def _link(folder: Path, up: str, name: str) -> str:
    """The address of a file of the run, from a page of it.

    Raises:
        ValueError: for a file that is not in the run.
        FileNotFoundError: for one that is not there.
    """
    if not _inside(folder, name).is_file():
        raise FileNotFoundError(f"{name} is missing")
    return up + quote(name)


def _inside(folder: Path, name: str) -> Path:
    """The place of a file of the run.

    Raises:
        ValueError: for a file that is not in the run, which a manifest from elsewhere may name.
    """
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} is not in the run")
    return folder / name


def data_uri(folder: Path, name: str) -> str:
    """A file of the run as a data: URI, so that the page needs nothing beside it.

    Raises:
        ValueError: for a file that is not in the run, which a manifest from elsewhere may name.
    """
    # (Not strict: WebP is in no standard that Python 3.11 knows.)
    kind = mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(_inside(folder, name).read_bytes()).decode('ascii')}"


@cache  # (compiling the templates takes longer than filling them in)
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("phosphene.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["short"] = _short
    environment.filters["duration"] = _duration
    environment.filters["by_target"] = _by_target
    environment.filters["caveats"] = _caveats
    environment.filters["most_tiles"] = _most_tiles
    environment.filters["tile_columns"] = _tile_columns
    environment.filters["target_columns"] = _target_columns
    environment.filters["sure"] = _sure
    environment.filters["reason"] = reason
    environment.filters["row_name"] = _row_name
    environment.filters["file_name"] = _file_name
    return environment


def _by_target(maps: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Maps of one image grouped by what they explain, best class first as they were computed."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in maps:
        groups.setdefault((row["target"]["index"], row["target"]["label"]), []).append(row)
    return list(groups.values())


def _caveats(images: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(title, caveat) of every method that has one, each once."""
    maps = [row for image in images for row in image["maps"]]
    return list({row["title"]: (row["title"], row["caveat"]) for row in maps if row["caveat"]}.values())


def _tiles(maps: list[dict[str, Any]]) -> int:
    """How many pictures stand side by side for one class."""
    return sum(1 + len(row.get("beside", ())) + ("reconstruction" in row and "beside" not in row) for row in maps)


def _most_tiles(images: list[dict[str, Any]]) -> int:
    """The most maps that any picture of a report has, of all its classes."""
    return max((_tiles(image["maps"]) for image in images), default=0)


def _tile_columns(maps: list[dict[str, Any]]) -> int:
    """Of the maps for one class."""
    return _even_columns(_tiles(maps))


def _target_columns(groups: list[list[dict[str, Any]]]) -> int:
    """Of the classes of a picture: side by side, but for those that fill a row each."""
    return _even_columns(len(groups)) if max(map(_tiles, groups), default=0) < 3 else 1


def _even_columns(count: int) -> int:
    """So many columns of at most four that the last row is as full as can be."""
    return math.ceil(count / max(1, math.ceil(count / 4)))


def _row_name(row: Mapping[str, Any]) -> str:
    """What a row is found by: the path of its picture, or what it was made of."""
    first = [best["label"] for best in row.get("classes", ())]
    return str(row.get("path") or row.get("unit") or row.get("layer") or " + ".join(first))


def _name_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Give each row of a picture the name that it is shown by: so much of the end of its path as tells all apart.

    Pictures of several folders have theirs with them: it may be their class.
    """
    parts = {row["path"]: re.split(r"[\\/]", row["path"]) for row in rows if row.get("path")}
    count = 1 if len({tuple(part[:-1]) for part in parts.values()}) < 2 else 2
    while len({tuple(part[-count:]) for part in parts.values()}) < len(set(map(tuple, parts.values()))):
        count += 1
    for row in rows:
        if row.get("path"):
            row["named"] = "/".join(parts[row["path"]][-count:])


def _file_name(path: str) -> Markup:
    """The name of a file, which a line may break after hyphens, dots and the like, before it breaks in a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[-._/])", path))


def _sure(row: Mapping[str, Any]) -> float:
    """The probability of a row's first class, as pages are sorted by it; 0 where there is none."""
    first = [*row.get("objects", ()), *row.get("predicted", ()), *row.get("classes", ())][:1]
    return float(first[0]["probability"] or 0.0) if first else 0.0


def _percent(value: float | None, among: Sequence[float | None] = ()) -> str:
    if value is None:  # NaN, where it was computed
        return "-"
    if is_score(value, among):
        return f"{value:.3g}"
    # The space before the sign does not break.
    return f"{100 * value:.1f}\u00a0%" if value >= 0.001 or value == 0 else "<\u00a00.1\u00a0%"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _short(value: Any) -> str:
    """A number in three significant digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
