"""What a new user waits for: seconds until the first result is on the screen, and until all is done.

    python -m benchmarks.first_hour [--rounds 3] [--busy 0 2] [--clone FOLDER|URL] [--only NAME...]

Each command is run as a user runs it, in a process of its own, with its output piped and on a terminal; alone, and
beside as many processes as `--busy` says that do nothing but keep a core busy. With `--clone` also what comes before:
`git clone`, `make demo` with its new environment, which needs a network. Prints a table of medians; needs git and make
for the clone, and a system with terminals.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe

_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NOTEBOOK = """
import phosphene
from skimage.data import chelsea
result = phosphene.explain("embedded", chelsea(), "grad_cam")
print(result, len(result._repr_html_()), flush=True)
found = phosphene.locate("embedded", chelsea())
print(found, len(found._repr_html_()), flush=True)
"""


@dataclass(frozen=True)
class Wait:
    """Something that a user waits for.

    Args:
        name: in the table.
        command: what is run.
        first: matches the line that is the first result.
        on_terminal: whether its output goes to a terminal.
    """

    name: str
    command: tuple[str, ...]
    first: str
    on_terminal: bool = False


@dataclass(frozen=True)
class Seconds:
    """How long it took.

    Args:
        first: until the first result was there; None if it never was.
        all: until the command had ended.
    """

    first: float | None
    all: float


def waits(photo: Path) -> list[Wait]:
    """What is measured, with this picture."""
    phosphene = (sys.executable, "-m", "phosphene")
    found = rf"{re.escape(photo.name)}: \S"
    explain, locate = ((*phosphene, name, str(photo)) for name in ("explain", "locate"))
    return [
        Wait("explain", explain, found),
        Wait("explain, on a terminal", explain, found, on_terminal=True),
        Wait("explain --method saliency:crops=10", (*explain, "--method", "saliency:crops=10"), found),
        Wait("locate", locate, found),
        Wait("locate, on a terminal", locate, found, on_terminal=True),
        Wait("demo", (*phosphene, "demo"), r"chelsea\.png: \S"),
        Wait("demo, on a terminal", (*phosphene, "demo"), r"chelsea\.png: \S", on_terminal=True),
        Wait("impress ladybug", (*phosphene, "impress", "ladybug"), r"ladybug \d+ %.*\.png"),
        Wait("cells of a notebook: explain, locate", (sys.executable, "-c", _NOTEBOOK), "Attribution"),
    ]


def clone(source: str, folder: Path) -> Wait:
    """From `git clone` to the report of the tour, in this folder."""
    steps = f"git clone --quiet {source} {folder} && make -C {folder} PYTHON={sys.executable} demo"
    return Wait("git clone && make demo", ("sh", "-c", steps), r"chelsea\.png: \S")


def timed(wait: Wait, folder: Path) -> Seconds:
    """Run a command in a folder and see when its first result comes.

    Raises:
        RuntimeError: if it fails, with what it said.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    begun, first = time.perf_counter(), None
    if wait.on_terminal:
        source, other = pty.openpty()
    else:
        source, other = os.pipe()
    process = subprocess.Popen(
        wait.command, cwd=folder, stdin=subprocess.DEVNULL, stdout=other, stderr=other, env=environment
    )
    os.close(other)
    said = ""
    for text in _read(source):
        said += text
        if first is None and re.search(wait.first, _TERMINAL.sub("", said)):
            first = time.perf_counter() - begun
    os.close(source)
    if process.wait() != 0:
        raise RuntimeError(f"{wait.name}: ended with {process.returncode}\n{said}")
    return Seconds(first, time.perf_counter() - begun)


def _read(source: int) -> Iterator[str]:
    """What comes, as it comes, until the other end is closed."""
    while True:
        try:
            content = os.read(source, 65536)
        except OSError:  # how a terminal ends on Linux
            return
        if not content:
            return
        yield content.decode(errors="replace")


@contextmanager
def beside(count: int) -> Iterator[None]:
    """A block beside processes that keep a core busy each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measured(wait: Wait, busy: int, rounds: int) -> Seconds:
    """Medians of some rounds, each in an empty folder."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, beside(busy):
            found.append(timed(wait, Path(folder)))
    firsts = [one.first for one in found if one.first is not None]
    return Seconds(statistics.median(firsts) if firsts else None, statistics.median(one.all for one in found))


def table(rows: Sequence[tuple[str, Sequence[Seconds]]], busy: Sequence[int]) -> str:
    """The medians in Markdown: for each load the seconds to the first result and to the end.

    Example:
        >>> print(table([("explain", [Seconds(3.21, 4.0)])], [0]))
        | seconds to the first result / to the end | alone |
        |---|---|
        | explain | 3.2 / 4.0 |
    """
    heads = ["alone" if count == 0 else f"beside {count} busy processes" for count in busy]
    lines = [f"| seconds to the first result / to the end | {' | '.join(heads)} |", "|---" * (1 + len(busy)) + "|"]
    for name, seconds in rows:
        cells = (f"{'never' if one.first is None else f'{one.first:.1f}'} / {one.all:.1f}" for one in seconds)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_hour", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], metavar="N")
    parser.add_argument("--clone", metavar="FOLDER|URL", help="also from a clone of this to the report, once")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="beginnings of the names in the table")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        photo = place / "photo.jpg"
        _save_photo(photo)
        chosen = [one for one in waits(photo) if not given.only or one.name.startswith(tuple(given.only))]
        if chosen:
            timed(chosen[0], place)  # what is read from the disk for the first time, and compiled by Python
        for one in chosen:
            rows.append((one.name, [measured(one, count, given.rounds) for count in given.busy]))
            print(table(rows[-1:], given.busy).splitlines()[-1], file=sys.stderr, flush=True)
        if given.clone:
            rows.append(("git clone && make demo", [_cloned(given.clone, place, count) for count in given.busy]))
    facts = describe()
    print(f"{facts['processor']}, {facts['cores']} cores, medians of {given.rounds}\n\n{table(rows, given.busy)}")


def _save_photo(target: Path) -> None:
    from PIL import Image
    from skimage.data import chelsea

    Image.fromarray(chelsea()).save(target)


def _cloned(source: str, place: Path, busy: int) -> Seconds:
    folder = place / "clone"
    with beside(busy):
        found = timed(clone(source, folder), place)
    shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    main()
