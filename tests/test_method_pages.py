"""Every method has its page, as its registration and docstring say today, with a picture or the reason why not."""

from __future__ import annotations

import importlib.util
import json
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
PAGES = DOCS / "methods"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_method_pages", DOCS / "make_method_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = script()
COSTS = json.loads((PAGES / "costs.json").read_text())


@pytest.mark.parametrize("name", MAKE.methods())
def test_page_is_up_to_date(name: str) -> None:
    assert name in COSTS, f"run python docs/make_method_pages.py --draw {name}"
    entry = MAKE.methods()[name]
    written = (PAGES / MAKE.page_name(entry)).read_text(encoding="utf-8")
    assert written == MAKE.page(entry, COSTS.get(name)), "run python docs/make_method_pages.py"
    assert ("refused" in COSTS[name]) != (COSTS[name].get("forward", 0) > 0)


@pytest.mark.parametrize("name", [name for name in MAKE.methods() if "forward" in COSTS.get(name, {})])
def test_picture_is_there_and_small(name: str) -> None:
    path = PAGES / "images" / (Path(MAKE.page_name(MAKE.methods()[name])).stem + ".jpg")
    assert path.stat().st_size < 80_000
    with Image.open(path) as picture:
        assert picture.height < 200
        assert picture.width > 800


def test_each_recipe_has_its_page_with_the_values_of_its_presets() -> None:
    assert {path.stem for path in MAKE.RECIPES.glob("*.md")} == set(MAKE.recipes())
    for name, entry in MAKE.recipes().items():
        written = (MAKE.RECIPES / f"{name}.md").read_text(encoding="utf-8")
        assert written == MAKE.recipe_page(entry), "run python docs/make_method_pages.py"
    assert "| `steps` | whole number | `200` | `400` |" in (MAKE.RECIPES / "sci.md").read_text(encoding="utf-8")


def test_no_page_and_no_cost_is_left_over() -> None:
    names = {MAKE.page_name(entry) for entry in MAKE.methods().values()} | {"README.md"}
    extra = {path.name for path in PAGES.glob("*.md")} - names
    assert all(name.startswith("captum_") and not find_spec("captum") for name in extra)
    if find_spec("captum"):
        assert set(COSTS) == set(MAKE.methods())
        assert (PAGES / "README.md").read_text(encoding="utf-8") == MAKE.index(COSTS)
