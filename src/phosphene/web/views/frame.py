"""What all views share: templates, and rows as what templates show, their files on the shelf."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import PurePath
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from phosphene.files import text_bytes
from phosphene.store import Asset, File, Grid, MapRow, Versus
from phosphene.types import View, is_score
from phosphene.web.asks import Ask
from phosphene.web.shelf import Shelf

AnyAsk = TypeVar("AnyAsk", bound=Ask)

# What the page calls the options that errors name.
_FIELDS = {"--class": "Class", "--versus": "Rather than"}


def render(template: str, **known: Any) -> str:
    """The HTML of a template; everything put into it is escaped, and what no browser can be sent is spelled out."""
    text = _templates().get_template(f"{template}.html.j2").render(**known)
    return text_bytes(text).decode()


def in_page(message: str) -> str:
    """An error's line with the page's fields instead of the options of commands.

    Example:
        >>> in_page("--versus 281: is the class itself; name another to tell it apart from")
        'Rather than 281: is the class itself; name another to tell it apart from'
    """
    for option, field in _FIELDS.items():
        message = message.replace(option, field)
    return message


def shown_map(shelf: Shelf, row: MapRow, picture_url: str, picture_name: str, about: str = "") -> dict[str, Any]:
    """What the template of a map needs.

    Args:
        shelf: takes the files of the map.
        row: the map.
        picture_url: of the picture that it lies on.
        picture_name: for who cannot see it.
        about: what it is for, if its target does not say.
    """
    named = {"npy": row.evidence or row.map, "raw": row.map, "heat": row.heat, "colorbar": row.colorbar}
    named |= {"overlay": row.overlay, "reconstruction": row.reconstruction, "contrast": row.contrast}
    files = {what: _lighter(what, file) for what, file in named.items() if isinstance(file, Asset)}
    urls = shelf.put({PurePath(file.name).name: file for file in files.values()})
    target = about or _target_name(row.target.label, row.target.versus)
    return {
        "title": row.title or row.method,
        "method": row.method,
        "target": target,
        "layer": row.layer,
        "seconds": row.seconds,
        "scale": row.scale,
        "caveat": row.caveat,
        "notes": row.notes or (),
        "error": row.error,
        "urls": {what: urls[PurePath(file.name).name] for what, file in files.items()},
        "picture": picture_url,
        "reading": _reading(row),
        "seen": None if row.view is None else _seen(row.view),
        "alt": f"{row.title or row.method} for {target}, laid on {picture_name}",
        "about": about,
    }


def how_to(ask: Ask, model: str, targets: Sequence[int] = (), versus: int | None = None) -> dict[str, str]:
    """The calls that do the same without the page, whose first model is `model`."""
    asked = named(ask, model)
    return {"command": asked.command(), "python": asked.python(ask.model or model, targets, versus)}


def named(ask: AnyAsk, model: str) -> AnyAsk:
    """A question of the page's first model with its name, where commands would take another one by themselves."""
    return replace(ask, model=ask.model or model) if model != "embedded" else ask


def _target_name(label: str, versus: Versus | None) -> str:
    return f"{label}, not {versus.label}" if versus else label


def _lighter(what: str, asset: Asset) -> Asset:
    """Pictures to be taken away as JPEG: a large PNG takes longer to write than the map to compute."""
    if what not in ("overlay", "reconstruction", "contrast"):
        return asset
    return Asset(str(PurePath(asset.name).with_suffix(".jpg")), asset.content, {"quality": 92})


def _reading(row: MapRow) -> str | None:
    """What the script needs to read the map's value at a place of the picture."""
    if row.grid is None or row.view is None:
        return None
    grid = row.grid if row.evidence is None else Grid((0.5, 0.5), (1.0, 1.0), row.grid.size)
    facts = {
        "offset": grid.offset,
        "stride": grid.stride,
        "scaled": row.view.scaled,
        "crop": row.view.crop,
        "original": row.view.original,
    }
    return json.dumps(facts)


def _seen(view: View) -> Mapping[str, float] | None:
    """The part that the network saw, in percent of the picture; None if that is all of it."""
    (top, left, height, width), (down, across) = view.crop, view.scaled
    if (top, left, height, width) == (0, 0, down, across):
        return None
    shares = {"top": top / down, "left": left / across, "height": height / down, "width": width / across}
    return {name: 100 * share for name, share in shares.items()}


def file_url(shelf: Shelf, file: File | None, name: str | None = None) -> str | None:
    """The address of one asset, put on the shelf."""
    if not isinstance(file, Asset):
        return None
    name = name or PurePath(file.name).name
    return shelf.put({name: file})[name]


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("phosphene.web", "templates"),
        autoescape=select_autoescape(("html", "j2"), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"percent": _percent, "short": lambda value: f"{value:.3g}", "duration": _duration}
    return found


def _percent(value: float, among: Sequence[float] = ()) -> str:
    if is_score(value, among):
        return f"{value:.3g}"
    if value <= 0:
        return "0 %"
    return f"{value:.1%}".replace("%", " %") if value >= 0.001 else "< 0.1 %"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
