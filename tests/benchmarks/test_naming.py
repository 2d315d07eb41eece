"""The blind naming test: nothing that the one who answers sees tells the names, and fused pictures need both."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.naming import Question, count, page, questions, sheet
from PIL import Image


def pictures(folder: Path) -> list[tuple[str, tuple[str, ...]]]:
    found = []
    for place, name in enumerate(("ladybug", "goldfish", "tabby", "mosque")):
        path = folder / f"{name}.png"
        Image.new("RGB", (32, 32), (place * 60, 20, 90)).save(path)
        found.append((str(path), (name,)))
    return found


def test_neither_page_nor_order_tells_a_name(tmp_path: Path) -> None:
    asked = questions(pictures(tmp_path), 4, seed=1)
    shown = page(asked)
    assert str(tmp_path) not in shown
    assert all(sorted(one.choices) == sorted(asked[0].choices) for one in asked)
    assert [one.path for one in asked] != [path for path, _ in pictures(tmp_path)]
    assert sheet(asked).size[0] > 3 * 300


def test_choices_hold_the_right_names_and_as_many_as_asked(tmp_path: Path) -> None:
    for one in questions(pictures(tmp_path), 3, seed=2):
        assert set(one.names) < set(one.choices)
        assert len(one.choices) == 3


def test_fused_pictures_count_where_both_are_named() -> None:
    asked = [Question(1, "a.png", ("cat", "dog"), ("cat", "cow", "dog", "hen"))]
    assert count(asked, {"1": "dog", "1b": "cat"})["right"] == 1
    half = count(asked, {"1": "dog", "1b": "cow"})
    assert half["right"] == 0
    assert half["taken_for"] == {"cat + dog": "dog + cow"}
    assert half["chance"] == 1 / 6
    assert json.dumps(half)
