"""The Python of the README and of the docs runs as it stands."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
]


# Other tools that pages show phosphene beside, and that it does not need.
OTHERS = ("tensorboard", "pandas", "duckdb", "pycocotools")


# What TensorBoard and pycocotools say of themselves.
@pytest.mark.filterwarnings("ignore:.*(tensorboard|pkg_resources|distutils|tensorflow|__array__ implementation)")
@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in OTHERS:
        if re.search(rf"^(import|from) [\w.]*\b{other}\b", block, re.MULTILINE) and find_spec(other) is None:
            pytest.skip(f"{other} is not installed: make test-examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "example", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
