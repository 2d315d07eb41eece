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
    assert [row["number"] for row in ROWS[paper]] == [figure.number for figure in figures(paper)]
    for row, figure in zip(ROWS[paper], figures(paper), strict=True):
        assert figure.claim in page, "run python docs/make_paper_pages.py"
        assert f"`{figure.command}`" in page
        if row["verdict"] is None:
            assert row["error"] in page
            continue
        assert row["verdict"] == Drawn(Image.new("RGB", (1, 1)), row["checks"], {}).verdict
        with Image.open(PAGES / "images" / f"{paper}-{row['number']}.jpg") as picture:
            assert picture.width <= 900


def test_every_reading_belongs_to_a_figure() -> None:
    readings = json.loads((PAGES / "readings.json").read_text(encoding="utf-8"))
    assert set(readings) <= {figure.name for figure in figures()}
    assert all(reading.strip() for reading in readings.values())
