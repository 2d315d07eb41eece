"""How results show themselves: pictures with lines below them, as one picture, as HTML, in a window, in a file."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from phosphene import types
from phosphene.errors import OptionError, OutputError
from phosphene.render.grid import side_by_side, stacked
from phosphene.render.heat import Scale, colorbar

_GAP = 10
# Pixels that a tile takes in a notebook at most.
_WIDEST = 640


@dataclass(frozen=True)
class Tile:
    """A picture with what it is.

    Args:
        picture: RGB.
        lines: the first is its title.
        scale: of its colors, drawn as a strip; None for none.
    """

    picture: Image.Image
    lines: tuple[str, ...] = ()
    scale: Scale | None = None


@dataclass(frozen=True)
class Sheet:
    """Rows of tiles, or a table beside them.

    Args:
        rows: of tiles, each side by side.
        title: above all.
        table: the names of columns, then a row of cells each; empty for none.
    """

    rows: tuple[tuple[Tile, ...], ...]
    title: str = ""
    table: tuple[tuple[str, ...], ...] = ()


Result = TypeVar("Result")
_SHEETS: dict[type, Callable[[Any], Sheet]] = {}


def shown_as(kind: type) -> Callable[[Callable[[Result], Sheet]], Callable[[Result], Sheet]]:
    """Register the function that makes a Sheet of results of a kind."""

    def decorate(function: Callable[[Result], Sheet]) -> Callable[[Result], Sheet]:
        _SHEETS[kind] = function
        return function

    return decorate


def sheet_of(result: Any) -> Sheet:
    """The sheet of a result; of Results those of all of them, one below the other.

    Raises:
        OptionError: for what is no result.
    """
    for kind in type(result).__mro__:
        if kind in _SHEETS:
            return _SHEETS[kind](result)
    if isinstance(result, list | tuple) and result:
        sheets = [sheet_of(one) for one in result]
        singles = all(len(sheet.rows) == 1 and len(sheet.rows[0]) == 1 for sheet in sheets)
        rows = tuple(row for sheet in sheets for row in sheet.rows)
        if singles:  # in rows of four
            tiles = [row[0] for row in rows]
            rows = tuple(tuple(tiles[start : start + 4]) for start in range(0, len(tiles), 4))
        return Sheet(rows, ", ".join(dict.fromkeys(sheet.title for sheet in sheets if sheet.title)))
    raise OptionError(
        f"{type(result).__name__} cannot be drawn; give what explain, contrast, impress, fuse, locate or features gave"
    )


def sheet_picture(sheet: Sheet) -> Image.Image:
    """All tiles in one picture: alone as it is, several in rows with their first lines below."""
    rows = [row for row in sheet.rows if row]
    if len(rows) == 1 and len(rows[0]) == 1:
        return rows[0][0].picture
    return stacked(
        [
            side_by_side(
                [tile.picture for tile in row],
                [tile.lines[0] if tile.lines else "" for tile in row] if any(tile.lines for tile in row) else (),
                height=min(tile.picture.height for tile in row),
            )
            for row in rows
        ]
    )


def sheet_html(sheet: Sheet) -> str:
    """The sheet as HTML that holds its pictures, in the colors of the page around it."""
    parts = [f"<div style='font-weight:600;margin:4px 0'>{escape(sheet.title)}</div>"] if sheet.title else []
    parts += [
        f"<div style='display:flex;flex-wrap:wrap;gap:{_GAP}px;margin:6px 0'>{''.join(map(_tile_html, row))}</div>"
        for row in sheet.rows
    ]
    parts += [_table_html(sheet.table)] if sheet.table else []
    return f"<div class='phosphene'>{''.join(parts)}</div>"


def _tile_html(tile: Tile) -> str:
    first, *others = tile.lines or ("",)
    small = "".join(f"<div style='opacity:.75;font-size:12px'>{escape(line)}</div>" for line in others)
    scale = ""
    if tile.scale is not None:
        scale = f"<img alt='' style='width:100%;height:8px;margin:4px 0 0' src='{_uri(colorbar(tile.scale))}'>"
    return (
        f"<figure style='margin:0;flex:1 1 200px;max-width:{min(tile.picture.width, _WIDEST)}px'>"
        f"<img alt='{escape(first, quote=True)}' style='width:100%' src='{_uri(tile.picture)}'>{scale}"
        f"<figcaption style='font-size:13px;line-height:1.4'><b>{escape(first)}</b>{small}</figcaption></figure>"
    )


def _table_html(table: Sequence[Sequence[str]]) -> str:
    head, *rows = table
    cells = "".join(f"<th style='text-align:left;padding:2px 10px 2px 0'>{escape(cell)}</th>" for cell in head)
    cell = "<td style='padding:2px 10px 2px 0'>{}</td>"
    lines = "".join(f"<tr>{''.join(cell.format(escape(text)) for text in row)}</tr>" for row in rows)
    return f"<table style='font-variant-numeric:tabular-nums'><tr>{cells}</tr>{lines}</table>"


def _uri(picture: Image.Image) -> str:
    """As JPEG where that is smaller by far: photographs."""
    content = io.BytesIO()
    small = picture.width * picture.height <= 256 * 16
    picture.convert("RGB").save(content, "PNG" if small else "JPEG", **({} if small else {"quality": 90}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


class _Drawing:
    """What results are shown by."""

    def html(self, result: Any) -> str:
        return sheet_html(sheet_of(result))

    def png(self, result: Any) -> bytes:
        buffer = io.BytesIO()
        sheet_picture(sheet_of(result)).save(buffer, "PNG")
        return buffer.getvalue()

    def show(self, result: Any) -> None:
        if in_notebook():
            import_module("IPython.display").display(result)
        elif not (has_screen() and import_module("PIL.ImageShow").show(sheet_picture(sheet_of(result)))):
            raise OutputError("no screen or no program that shows pictures was found; write it: .save('result.png')")

    def save(self, result: Any, path: str | os.PathLike[str]) -> None:
        sheet, place = sheet_of(result), Path(path)
        try:
            if place.suffix.lower() in (".html", ".htm"):
                place.write_text(f"<!doctype html><meta charset='utf-8'>{sheet_html(sheet)}\n", encoding="utf-8")
            else:
                sheet_picture(sheet).save(place)
        except (ValueError, KeyError):
            formats = ".png, .jpg, .webp, .pdf or .html"
            raise OptionError(f"{place}: says no format of pictures; end it in {formats}") from None
        except OSError as error:
            raise OutputError(f"{place}: cannot be written ({error.strerror or error})") from None


def has_screen() -> bool:
    """Whether windows can be opened, as far as is known: on Linux a server of windows has to be named."""
    return not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def in_notebook() -> bool:
    """Whether the program is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def numbers(values: Iterable[object]) -> tuple[str, ...]:
    """Cells of a table: numbers in three digits, nothing as a dash.

    Example:
        >>> numbers([0.12345, None, "cam", 3])
        ('0.123', '-', 'cam', '3')
    """
    return tuple(
        "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value) for value in values
    )


types.DRAWN_BY[:] = [_Drawing()]
