"""The pages of the papers: every figure stands on them, with the verdict that its checks give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from phosphene.figures import Drawn, figures, papers

PAGES = Path(__file__).parents[2] / "docs" / "papers"
ROWS = json.loads((PAGES / "figures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("paper", papers())
def test_a_page_has_all_figures_of_its_paper(paper: str) -> None:
    page = (PAGES / f"{paper}.md").read_text(encoding="utf-8")
    for figure in figures(paper):
        assert figure.claim in page, "run python docs/make_paper_pages.py"
        assert f"`{figure.command}`" in page
        row = ROWS.get(figure.name)
        if row is None:
            assert f"Not made yet: `phosphene figures {figure.name}`" in page
        elif row["verdict"] is None:
            assert row["error"] in page
        else:
            assert row["verdict"] == Drawn(Image.new("RGB", (1, 1)), row["checks"], {}).verdict
            assert all(text in page for text in row["checks"])
            with Image.open(PAGES / "images" / f"{figure.name}.jpg") as picture:
                assert picture.width <= 900


def test_every_reading_belongs_to_a_figure() -> None:
    readings = json.loads((PAGES / "readings.json").read_text(encoding="utf-8"))
    assert set(readings) <= {figure.name for figure in figures()}
    assert all(reading.strip() for reading in readings.values())
