"""How every run on a disk or behind a URL begins: its place is made ready, manifest and plan are written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phosphene.errors import TYPED_WRONG, InputError, OptionError
from phosphene.files import is_file, is_run, is_url, join, names_in, read_file, remove, text_bytes, write_whole
from phosphene.run_mark import MANIFEST
from phosphene.store.plan import Plan, check_same
from phosphene.store.row_json import plain
from phosphene.store.run_folder import PLAN, SCHEMA, RunFolder, manifest_head


def begin(
    place: str | None, plan: Plan, *, overwrite: bool = False, resume: bool = False
) -> tuple[str, dict[str, Any]]:
    """(place, manifest) of a run that rows can be written to now.

    Args:
        place: path or URL; None makes a new folder under ./phosphene-runs.
        plan: what the run is to do.
        overwrite: replace the run that is there.
        resume: go on with the run that is there, if there is one.

    Raises:
        OptionError: if a run is there already, or one of another plan, or files that are no run.
        OutputError: if the place cannot be written.
    """
    if resume and place is not None and is_run(place):
        manifest = read_raw_manifest(place)
        if "plan" not in manifest:
            raise OptionError(
                f"{place}: was made by an older phosphene and cannot be gone on with; choose another --out"
            )
        check_same(place, plan, manifest, read_plan(place))
        manifest["resumed"] = [*manifest.get("resumed", []), datetime.now(UTC).isoformat(timespec="seconds")]
    else:
        place = _cleared(place, plan.command, overwrite)
        manifest = {**manifest_head(plan.command), "complete": False, **plan.described()}
    place = place if is_url(place) else str(Path(place).absolute())
    manifest["complete"] = False
    # First the manifest: from now on the folder is known as a run, whatever happens.
    write_manifest(place, manifest)
    if plan.keys is not None and not is_file(join(place, PLAN)):
        write_whole(place, PLAN, "".join(json.dumps(key) + "\n" for key in plan.keys).encode())
    return place, manifest


@contextmanager
def taken_back(place: str, is_empty: Callable[[], bool]) -> Iterator[None]:
    """A block that fills a run; one that refuses what was typed takes the run with it, as long as nothing was made.

    Args:
        place: of the run, which was begun.
        is_empty: whether nothing was made; asked when the block ends so.
    """
    try:
        yield
    except TYPED_WRONG:
        if not is_empty():
            raise
        if is_url(place):
            _remove_files(place, [name for name, is_dir in names_in(place) if not is_dir])
        else:
            RunFolder(Path(place), "").discard(whole=True)
        raise


def keep_inputs(place: str | None, overwrite: bool, paths: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse to clear a run folder that holds what is to be read.

    Args:
        place: of the run.
        overwrite: whether it would be cleared.
        paths: that are to be read.

    Raises:
        OptionError: naming the first such picture.
    """
    if place is None or not overwrite:
        return
    folder = os.path.realpath(place)
    for path in paths:
        if Path(os.path.realpath(path)).is_relative_to(folder):
            raise OptionError(f"{path}: lies in --out {place}, which --overwrite would clear; choose another --out")


def write_manifest(place: str, manifest: dict[str, Any]) -> None:
    """Replace the manifest of a run, whole."""
    text = json.dumps(plain(manifest), indent=1, allow_nan=False) + "\n"
    write_whole(place, MANIFEST, text_bytes(text))


def remove_partial_files(place: str) -> None:
    """Remove what was being written when a run on a disk was killed; stores behind URLs hold nothing partial."""
    if not is_url(place):
        for path in Path(place).rglob(".*.partial"):
            path.unlink(missing_ok=True)


def read_raw_manifest(place: str) -> dict[str, Any]:
    """The manifest as it is in the file.

    Raises:
        InputError: if the folder is no run, or was made by a newer phosphene.
    """
    try:
        manifest: dict[str, Any] = json.loads(read_file(join(place, MANIFEST)))
        schema, _ = manifest["schema"], manifest["command"]
    except (InputError, ValueError, KeyError, TypeError):
        raise InputError(f"{place}: is no run folder (it has no readable {MANIFEST})") from None
    if not isinstance(schema, int) or schema > SCHEMA:
        raise InputError(f"{place}: was made by a newer phosphene (schema {schema}, this one reads {SCHEMA}); upgrade")
    return manifest


def read_plan(place: str) -> tuple[str, ...] | None:
    """The keys that a run is to make; None if it does not say."""
    if not is_file(join(place, PLAN)):
        return None
    return tuple(json.loads(line) for line in read_file(join(place, PLAN)).splitlines())


def _cleared(place: str | None, command: str, overwrite: bool) -> str:
    if place is None or not is_url(place):
        return str(RunFolder.create(place, command, overwrite=overwrite).path)
    try:
        there = [name for name, is_dir in names_in(place) if not is_dir]
    except InputError:
        return place
    if there and not is_run(place):
        raise OptionError(f"{place}: holds files that are no phosphene run; choose another --out")
    if there and not overwrite:
        raise OptionError(f"{place}: exists already; add --overwrite or choose another --out")
    _remove_files(place, there)
    return place


def _remove_files(place: str, names: Iterable[str]) -> None:
    # The manifest last: until all is gone the place is known as a run.
    for name in sorted(names, key=lambda name: name == MANIFEST):
        remove(place, name)
