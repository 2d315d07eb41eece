"""The page on many pictures: its one-liners read what its Python wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import phosphene

PAGE = (Path(__file__).parents[2] / "docs" / "batch.md").read_text("utf-8")
(SETUP,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
READERS = re.findall(r"^```py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("pyarrow")
    place = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        exec(compile(SETUP, "batch.md", "exec"), {})
    return place


@pytest.mark.filterwarnings("ignore")  # the readers' own
@pytest.mark.parametrize("code", READERS, ids=[code.split()[1] for code in READERS])
def test_one_line_reads_the_shards(code, folder, monkeypatch):
    package = code.split()[1]
    pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(folder)
    *before, last = code.strip().split("\n\n")
    space: dict[str, object] = {}
    exec("\n".join(before), space)
    assert len(eval(last, space)) > 0


def test_failed_pictures_are_run_once_more(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    (code,) = re.findall(r'^```py title="again.py"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    Image.new("RGB", (40, 30), "red").save("pictures/whole, of red.jpg")
    Path("pictures/cut short, of red.jpg").write_bytes(b"")
    asked = {"method": "saliency", "workers": 0}
    first = phosphene.batch("embedded", "pictures", "run", **asked)
    exec(code, {})
    Image.new("RGB", (40, 30), "red").save("pictures/cut short, of red.jpg")
    again = phosphene.batch("embedded", "again.txt", "again", **asked)
    assert (first["failed"], again["pictures"], again["failed"]) == (1, 1, 0)


def test_every_column_stands_on_the_page():
    from phosphene.store import COLUMNS

    told = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("| column |") : PAGE.index("and the source's own columns")]))
    assert set(COLUMNS) | {"overlay"} <= told
