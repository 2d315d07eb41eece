"""report.html: everything of a run in one file that opens from disk without a network."""

from __future__ import annotations

import base64
import mimetypes
import os
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError, select_autoescape

from phosphene.errors import InputError
from phosphene.store import RunFolder, read_manifest


def write_report(run: str | os.PathLike[str]) -> Path:
    """Write report.html into a run folder, from its manifest and pictures alone; the file's path.

    Raises:
        InputError: if the folder is no run, of a kind that has no report, or damaged.
        OutputError: if the file cannot be written.
    """
    folder = Path(run).absolute()
    manifest = read_manifest(folder)
    templates = _templates()
    name = f"{manifest['command']}.html.j2"
    if name not in templates.list_templates():
        raise InputError(f"{run}: a run of '{manifest['command']}' has no report")
    try:
        text = templates.get_template(name).render(run=manifest, embed=partial(data_uri, folder))
    except (OSError, TypeError, LookupError, ValueError, AttributeError, UndefinedError) as error:
        raise InputError(f"{run}: the run is damaged ({error}); run the command again") from None
    return folder / RunFolder(folder, manifest["command"]).save_text("report.html", text)


def data_uri(folder: Path, name: str) -> str:
    """A file of the run as a data: URI, so that the page needs nothing beside it.

    Raises:
        ValueError: for a file that is not in the run, which a manifest from elsewhere may name.
    """
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} is not in the run")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode((folder / name).read_bytes()).decode('ascii')}"


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
    return environment


def _by_target(maps: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Maps of one image grouped by what they explain, best class first as they were computed."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in maps:
        groups.setdefault((row["target"]["index"], row["target"]["label"]), []).append(row)
    return list(groups.values())


def _percent(value: float | None) -> str:
    if value is None:  # NaN, where it was computed
        return "-"
    # The space before the sign does not break.
    return f"{100 * value:.1f}\u00a0%" if value >= 0.001 or value == 0 else "<\u00a00.1\u00a0%"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _short(value: Any) -> str:
    """A number in three significant digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
