"""The notebooks of the docs run from beginning to end, and their results show themselves."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.mark.filterwarnings("ignore")  # the kernel's own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_each_result_shows_itself(path: Path, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[test]'")
    made = script("make_notebooks")
    notebook = made.executed(path, tmp_path, shorter=True)
    shown = [cell for cell in notebook.cells if made.shows(cell)]
    assert shown
    for cell in shown:
        data = cell.outputs[-1].data
        assert "<img" in data["text/html"], cell.source
        kept = made.small(cell.outputs[-1])
        assert set(kept["data"]) == {"image/jpeg", "text/plain"}
        assert len(kept["data"]["image/jpeg"]) < 200_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_small_and_all_there(path: Path) -> None:
    made, text = script("make_notebooks"), path.read_text(encoding="utf-8")
    assert len(text) < 600_000
    assert "text/html" not in text
    for cell in json.loads(text)["cells"]:
        if made.shows(cell):
            assert "image/jpeg" in cell["outputs"][-1]["data"], "python docs/make_notebooks.py"


def test_each_is_a_page_of_the_site() -> None:
    pages = script("make_site_pages").generated()
    for path in NOTEBOOKS:
        text, cells = pages[f"notebooks/{path.stem}.md"], json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert isinstance(text, str)
        assert text.count("\n```python\n") == sum(cell["cell_type"] == "code" for cell in cells)
        pictures = [name for name in pages if name.startswith(f"notebooks/{path.stem}-")]
        assert len(pictures) == text.count(f"]({path.stem}-") > 0
        assert all(bytes(pages[name])[:2] == b"\xff\xd8" for name in pictures)
        assert f"({path.name})" in text
        assert ".ipynb)" not in text.replace(f"({path.name})", "")
