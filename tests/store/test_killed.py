"""kill -9 at random moments: the run opens each time, and resumed it ends as one that was never disturbed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phosphene.errors import OutputError
from phosphene.files import MANIFEST
from phosphene.store import open_run, open_sink
from tests.store.rows import explain_row, keys_of, plan_of
from tests.store.writing import write

COUNT, KILLS = 150, 6


def started(kind: str, place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.store.writing", kind, str(place), str(COUNT)]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root / "src"), str(root)])
    return subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )


def contents(place: Path) -> dict[str, bytes]:
    """All files but the manifest, which tells the time."""
    files = (path for path in place.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_killed_at_random_moments(tmp_path, kind):
    if kind == "shards":
        pytest.importorskip("pyarrow")
    begin = time.perf_counter()
    write(kind, str(tmp_path / "whole"), COUNT)
    seconds = time.perf_counter() - begin
    whole = contents(tmp_path / "whole")
    wanted = {row.key: row for row in open_run(tmp_path / "whole")}
    draw, seen, interrupted = random.Random(7), set(), 0
    for _ in range(KILLS):
        place = tmp_path / "run"
        with started(kind, place) as process:
            if draw.random() < 0.8:
                assert process.stdout is not None
                process.stdout.readline()
            time.sleep(draw.random() * seconds * 0.4)
            process.kill()
        if not (place / MANIFEST).is_file():
            continue
        run = open_run(place)
        rows = run.rows()
        assert run.done == {row.key for row in rows}
        assert run.missing == tuple(key for key in keys_of(COUNT) if key not in run.done)
        assert run.done >= seen  # what was there stays there
        assert all(key in run.done for key in run.failed)
        for row in rows:
            check(run, row, wanted[row.key], kind)
        seen = set(run.done)
        interrupted += not run.is_complete
        if run.is_complete:
            assert contents(place) == whole
            shutil.rmtree(place)
            seen = set()
    assert interrupted >= KILLS // 4
    write(kind, str(tmp_path / "run"), COUNT)
    run = open_run(tmp_path / "run")
    assert run.is_complete
    assert run.missing == ()
    assert contents(tmp_path / "run") == whole


def check(run, row, wanted, kind):
    """The row is as it was meant, and its files are there and whole."""
    if kind == "folder":
        assert row == wanted
        for shown in row.maps:
            for name in (shown.map, shown.overlay):
                assert Path(run.path(name)).stat().st_size > 100
    else:
        made = explain_row(row.key)
        assert (row.status, row.error, len(row.maps)) == (made.status, made.error, len(made.maps))
        for shown, own in zip(row.maps, made.maps, strict=True):
            assert (shown.map.content == own.map.content).all()


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_two_processes_do_not_write_one_run(tmp_path, how):
    with open_sink("folder", str(tmp_path / "run"), plan_of(3)) as sink:
        sink.write(explain_row(keys_of(3)[0]))
        with pytest.raises(OutputError, match="another process is writing this run"):
            open_sink("folder", str(tmp_path / "run"), plan_of(3), **{how: True})
    assert len(open_run(tmp_path / "run").rows()) == 1


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_what_was_being_written_is_gone_when_a_run_is_gone_on_with(tmp_path, kind):
    if kind == "shards":
        pytest.importorskip("pyarrow")
    write(kind, str(tmp_path / "run"), 3)
    (tmp_path / "run" / ".v3r8g0pv.partial").write_bytes(b"")
    write(kind, str(tmp_path / "run"), 3)
    assert not list((tmp_path / "run").glob(".*"))
