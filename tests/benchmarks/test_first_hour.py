"""The stopwatch of the first hour: it sees the first result when it comes, piped and on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("pty", reason="there are no terminals on this system")

from benchmarks.first_hour import Wait, timed, waits

CODE = """
import sys, time
print("\\x1b[1mloading\\x1b[0m", file=sys.stderr, flush=True)
print("\\x1b[32mcat.png\\x1b[0m: tabby", sys.stderr.isatty(), file=sys.stderr, flush=True)
time.sleep(0.4)
"""


@pytest.mark.parametrize("on_terminal", [False, True])
def test_the_first_result_is_seen_when_it_comes(on_terminal: bool, tmp_path: Path) -> None:
    seconds = timed(Wait("", (sys.executable, "-c", CODE), rf"cat\.png: tabby {on_terminal}", on_terminal), tmp_path)
    assert seconds.first is not None
    assert seconds.all - seconds.first >= 0.3


def test_what_fails_is_told(tmp_path: Path) -> None:
    wait = Wait("mine", (sys.executable, "-c", "raise SystemExit('too bad')"), "x")
    with pytest.raises(RuntimeError, match="mine: ended with 1\ntoo bad"):
        timed(wait, tmp_path)


def test_every_wait_has_a_name_of_its_own(tmp_path: Path) -> None:
    names = [wait.name for wait in waits(tmp_path / "photo.jpg")]
    assert len(set(names)) == len(names)
