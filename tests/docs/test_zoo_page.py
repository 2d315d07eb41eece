"""The tables of docs/zoo.md hold every method, and name the libraries that docs/peers.md names."""

from __future__ import annotations

import re

import pytest

from phosphene import methods
from tests.zoo.page import equal_to, measured, rows

TASKS = ("classification", "transformers", "segmentation", "detection", "other_outputs", "black_boxes")


@pytest.mark.parametrize("task", TASKS)
def test_every_method_has_its_row(task: str) -> None:
    found, text = rows(task), measured(task)
    own = [name for name, entry in methods().items() if entry.function.__module__.startswith("phosphene.attribution.")]
    assert set(own) <= set(found), "run python -m tests.zoo.table"
    for name in own:
        equal = found[name].pop("equal to")
        assert equal == equal_to(name, task)
        assert len(found[name]) >= 2
        for cell in found[name].values():
            assert re.fullmatch(r"works|(refused|blank) \(\d+\)", cell)
            assert all(f"\n{number}. " in text for number in re.findall(r"\d+", cell))
