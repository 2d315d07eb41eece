"""A blind naming test of impressions: pictures without captions, in random order, each among a number of choices.

`python -m benchmarks.naming ask RUN... --out FOLDER` writes, of the pictures of impress and fuse runs,
naming.html (a page for people: it counts nothing and keeps the answers in a file that the browser saves), sheet.png
(all pictures at once, numbered, for a quick look) and key.json, which who answers does not open. Then
`python -m benchmarks.naming count FOLDER/key.json ANSWERS.json...` counts what was named right.

Answers are {"1": "ladybug", ...}: the name chosen for each number, or "" for none. A fused picture counts where both
of its classes are named, by two answers "1" and "1b".
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import math
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import phosphene
from phosphene.store.rows import ImpressionRow

SHOWN = 336  # pixels of a picture on the page and on the sheet
_MARGIN = 30


@dataclass(frozen=True)
class Question:
    """A picture to be named.

    Args:
        number: by which it is answered.
        path: of the picture.
        names: of its classes, one or more.
        choices: names to choose from, the right ones among them.
    """

    number: int
    path: str
    names: tuple[str, ...]
    choices: tuple[str, ...]


def questions(pictures: list[tuple[str, tuple[str, ...]]], choices: int, seed: int) -> list[Question]:
    """The pictures (path, names) in random order, each with names of the others to choose from.

    Example:
        >>> asked = questions([("a.png", ("cat",)), ("b.png", ("dog",)), ("c.png", ("cow",))], 2, seed=0)
        >>> sorted(one.path for one in asked), {len(one.choices) for one in asked}
        (['a.png', 'b.png', 'c.png'], {2})
    """
    order = random.Random(seed)
    names = sorted({name for _, found in pictures for name in found})
    shuffled = order.sample(pictures, len(pictures))
    asked = []
    for number, (path, right) in enumerate(shuffled, start=1):
        others = [name for name in names if name not in right]
        beside = order.sample(others, min(len(others), max(0, choices - len(right))))
        asked.append(Question(number, path, right, tuple(sorted((*right, *beside)))))
    return asked


def count(asked: list[Question], answers: dict[str, str]) -> dict[str, Any]:
    """How many pictures were named right, and which were taken for what.

    Example:
        >>> asked = [Question(1, "a.png", ("cat",), ("cat", "dog")), Question(2, "b.png", ("dog",), ("cat", "dog"))]
        >>> count(asked, {"1": "cat", "2": "cat"})
        {'pictures': 2, 'answered': 2, 'right': 1, 'share': 0.5, 'chance': 0.5, 'taken_for': {'dog': 'cat'}}
    """
    right, answered, wrong = 0, 0, dict[str, str]()
    for one in asked:
        said = tuple(answers.get(f"{one.number}{mark}", "") for mark in _marks(one))
        answered += any(said)
        if set(said) == set(one.names):
            right += 1
        else:
            wrong[" + ".join(one.names)] = " + ".join(filter(None, said))
    return {
        "pictures": len(asked),
        "answered": answered,
        "right": right,
        "share": right / max(1, len(asked)),
        "chance": sum(1 / math.comb(len(one.choices), len(one.names)) for one in asked) / max(1, len(asked)),
        "taken_for": wrong,
    }


def _marks(one: Question) -> str | tuple[str, ...]:
    return ("", *"bcdefgh"[: len(one.names) - 1])


def pictures_of(runs: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """(path, names of its classes) of every picture that a class was given to."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for place in runs:
        run = phosphene.open_run(place)
        rows = (row for row in run.rows() if isinstance(row, ImpressionRow) and row.unit is None)
        found += [(run.path(str(row.image)), tuple(one.label for one in row.classes)) for row in rows]
    if not found:
        raise SystemExit(f"{', '.join(runs)}: no pictures of classes; make some with `phosphene impress CLASS...`")
    return found


def sheet(asked: list[Question]) -> Image.Image:
    """All pictures in a grid, each with its number and no name."""
    columns = math.ceil(math.sqrt(len(asked) * 1.4))
    rows = math.ceil(len(asked) / columns)
    paper = Image.new("RGB", (columns * (SHOWN + 6), rows * (SHOWN + _MARGIN)), "white")
    for place, one in enumerate(asked):
        left, top = place % columns * (SHOWN + 6), place // columns * (SHOWN + _MARGIN)
        ImageDraw.Draw(paper).text((left + 4, top + 2), str(one.number), "black", font_size=24)
        paper.paste(_read(one.path), (left, top + _MARGIN))
    return paper


def page(asked: list[Question]) -> str:
    """A page that shows one picture after the other with its choices and saves the answers as a file."""
    shown = [
        {"number": one.number, "slots": list(_marks(one)), "choices": one.choices, "picture": _as_url(one.path)}
        for one in asked
    ]
    data = html.escape(json.dumps(shown), quote=False)
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return template.replace("{{questions}}", data)


def _read(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB").resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)


def _as_url(path: str) -> str:
    # Encoded anew: neither the name of the file nor what is written in it tells the class.
    written = io.BytesIO()
    _read(path).save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def main() -> int:
    """Ask or count."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.naming", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    ask = commands.add_parser("ask", help="write the page, the sheet and the key")
    ask.add_argument("runs", nargs="+", metavar="RUN", help="run folders of impress or fuse")
    ask.add_argument("--out", required=True, help="folder to write to")
    ask.add_argument("--choices", type=int, default=12, help="names to choose from, of the classes shown (default 12)")
    ask.add_argument("--seed", type=int, default=0, help="of the order and the choices")
    counted = commands.add_parser("count", help="how many were named right")
    counted.add_argument("key", help="key.json of the folder")
    counted.add_argument("answers", nargs="+", help="files of answers, one a person")
    chosen = parser.parse_args()
    if chosen.command == "ask":
        folder = Path(chosen.out)
        folder.mkdir(parents=True, exist_ok=True)
        asked = questions(pictures_of(chosen.runs), chosen.choices, chosen.seed)
        (folder / "key.json").write_text(json.dumps([asdict(one) for one in asked], indent=1), encoding="utf-8")
        (folder / "naming.html").write_text(page(asked), encoding="utf-8")
        sheet(asked).save(folder / "sheet.png")
        print(f"{len(asked)} pictures in {folder}: open naming.html; do not open key.json before answering")
        return 0
    key = json.loads(Path(chosen.key).read_text(encoding="utf-8"))
    asked = [Question(one["number"], one["path"], tuple(one["names"]), tuple(one["choices"])) for one in key]
    for path in chosen.answers:
        print(
            json.dumps({"answers": path, **count(asked, json.loads(Path(path).read_text(encoding="utf-8")))}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
