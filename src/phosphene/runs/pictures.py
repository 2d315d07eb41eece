"""Runs that make a row of each picture: source + task + folder sink + report, valid at any moment, gone on with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import PurePath
from typing import Any

from phosphene.cancel import Cancel
from phosphene.errors import CancelledError, InputError, printable, reason
from phosphene.files import is_url
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.session import check_resume, close_rows, row_plan
from phosphene.runtime import Prepared
from phosphene.sources import Entry, Item, Source, open_pictures
from phosphene.store import FolderSink, Row, Run, keep_inputs, open_run
from phosphene.tasks import PictureTask

# Called when all rows are there, with what the run holds, where rows can be written again, and the pictures; gives
# what is to be said besides in manifest and answer.
Finish = Callable[[Run, FolderSink, Source], dict[str, Any]]


def run_over_pictures(
    command: str,
    specs: Sequence[str],
    task: PictureTask,
    common: CommonOptions,
    classifier: Prepared,
    *,
    resume: bool = False,
    finish: Finish = lambda _run, _sink, _source: {},
) -> dict[str, Any]:
    """Do a task for pictures and write a run folder row by row.

    Args:
        command: what the run is called in its manifest.
        specs: files, folders, patterns, tables, lists, tar archives and URLs, as typed.
        task: that makes the rows.
        common: the common options.
        classifier: that looks at the pictures.
        resume: go on with the run in --out, if there is one.
        finish: what is done when all rows are there.

    Returns:
        The JSON answer of the command: {"run", "report", "images": [...]}.

    Raises:
        InputError: if none of what was typed is there.
        PhospheneError: for what concerns the whole run: options, model, output folder.
        CancelledError: if it was stopped; what was done is kept and in the report.
    """
    check_resume(common, resume)
    source = open_pictures(specs)
    paths = {entry.key: entry.path for entry in listed(source, specs)}
    keep_inputs(common.out, common.overwrite, [*specs, *paths.values()])
    plan = row_plan(command, tuple(paths), common, classifier, task.described())
    started = time.perf_counter()
    with FolderSink(common.out, plan, overwrite=common.overwrite, resume=resume) as sink:
        try:
            _write_rows(sink, source, task, common, classifier)
            facts = finish(open_run(sink.place), sink, source)
        except CancelledError:
            close_rows(sink, task.rows, common, started, complete=False)
            raise
        return close_rows(sink, task.rows, common, started, **facts)


def listed(source: Source, specs: Sequence[str]) -> list[Entry]:
    """The pictures of what was typed.

    Raises:
        InputError: if none of it is there, before there is a run folder.
    """
    entries = list(source.entries())
    if all(_is_missing(entry.path, specs) for entry in entries):
        entries[0].load()  # raises what is wrong with it
    return entries


def _is_missing(path: str, specs: Sequence[str]) -> bool:
    """Whether a picture is what somebody typed, and there is no such file."""
    return path in specs and not is_url(path) and not os.path.isfile(path)


def _write_rows(
    sink: FolderSink, source: Source, task: PictureTask, common: CommonOptions, classifier: Prepared
) -> None:
    keys = sink.plan.keys or ()
    size = task.pictures_at_once(classifier)
    reading = classifier.preprocess.reading
    for start, items in batches_to_do(source, keys, size, sink.done, common.cancel, **reading):
        which = f"picture {start + 1}" if len(items) == 1 else f"pictures {start + 1} to {start + len(items)}"
        place = f"{which} of {len(keys)}"

        def progress(done: int, total: int, text: str, place: str = place) -> None:
            common.step(done, total, f"{text}, {place}")

        told: dict[str, list[str]] = {}

        def say(item: Item, text: str, told: dict[str, list[str]] = told) -> None:
            lines = told.setdefault(item.key, [])
            if item.key not in sink.done and text not in lines:  # (what is tried again is told once)
                lines.append(text)
                common.say(f"{_name(item.path)}: {text}")

        rows = task.run(classifier, items, start=start, progress=progress, say=say, first=not sink.has_worked)
        for number, item in enumerate(items, start):
            if item.key not in sink.done:
                common.announce(number, len(keys), _name(item.path))
            row = next(rows)
            if row.key not in sink.done:
                sink.write(row)
                for text in _found(row):
                    say(item, text)
            common.cancel.raise_if_cancelled()


def _found(row: Row) -> list[str]:
    """What was found in a picture, a text each."""
    if getattr(row, "status", "ok") == "error":
        return [f"failed: {reason(getattr(row, 'error', ''), getattr(row, 'path', ''))}"]
    best = [str(one) for one in getattr(row, "predicted", ())[:1]]
    return [f"{thing.label}: {in_pixels(thing.box)}" for thing in getattr(row, "objects", ())] or best


def in_pixels(box: Sequence[float]) -> str:
    """A box as people read it.

    Example:
        >>> in_pixels((10, 20.4, 300, 200))
        'x 10 to 300, y 20 to 200'
    """
    x0, y0, x1, y1 = box
    return f"x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}"


def _name(path: str) -> str:
    return printable(PurePath(path).name)


def batches_to_do(
    source: Source, keys: Sequence[str], size: int, done: frozenset[str], cancel: Cancel, **reading: Any
) -> Iterator[tuple[int, list[Item]]]:
    """(number of the first, items) of the batches that have a picture to do.

    Batches are cut from the plan and done whole: the last bits of a map can depend on what else is in its batch, and a
    run that is gone on with has to end with the bits of one that was never disturbed.

    Args:
        source: of the pictures.
        keys: of all pictures of the run, in order.
        size: of a batch.
        done: keys of the pictures that are done.
        cancel: ends the iteration before the next picture.
        **reading: how files are read.

    Raises:
        InputError: if the source gives other pictures than those of the plan.
    """
    batches = [(start, keys[start : start + size]) for start in range(0, len(keys), size)]
    skipped = {key for _, batch in batches if done.issuperset(batch) for key in batch}
    items = source.items(skip=skipped, cancel=cancel, **reading)
    for start, batch in batches:
        if skipped.issuperset(batch):
            continue
        found = list(islice(items, len(batch)))
        if [item.key for item in found] != list(batch):
            raise InputError("the pictures changed while they were being read; run the command again")
        yield start, found
