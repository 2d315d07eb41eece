from __future__ import annotations

import json
import re
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phosphene import files, store
from phosphene.errors import InputError, OptionError, OutputError
from phosphene.store import RunFolder, file_stem, read_manifest, without_nan


@given(st.text(max_size=120))
def test_file_stems_are_safe_names(text):
    stem = file_stem(text)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", stem)


def test_long_names_that_differ_at_the_end_stay_apart():
    assert file_stem("a" * 80 + "1") != file_stem("a" * 80 + "2")


def test_everything_that_was_written_is_read_back(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "explain")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    names = [
        folder.save_array("deep/er/a.npy", array),
        folder.save_image("p.png", Image.new("RGB", (3, 2), "red")),
        folder.save_text("t.txt", "caf\udce9 é"),
        folder.save_json("j.json", {"file": PurePath("deep/er/a.npy"), "n": 1.5}),
    ]
    assert np.array_equal(np.load(folder.path / names[0]), array)
    with Image.open(folder.path / names[1]) as image:
        assert image.size == (3, 2)
    assert (folder.path / names[2]).read_text(encoding="utf-8") == "caf\\udce9 é"
    assert json.loads((folder.path / names[3]).read_text())["file"] == "deep/er/a.npy"
    assert folder.absolute({"a": [names[0]]}) == {"a": [str(tmp_path / "run" / "deep/er/a.npy")]}
    assert {path.name for path in folder.path.rglob("*") if path.is_file()} == {"a.npy", "p.png", "t.txt", "j.json"}


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run", "explain")
    folder.save_text("a.txt", "old")

    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(No space left on device\)"):
        folder.save_text("a.txt", "new")
    assert (folder.path / "a.txt").read_text() == "old"
    assert [path.name for path in folder.path.iterdir()] == ["a.txt"]


def test_manifest(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "explain")
    folder.save_manifest(value=float("nan"), nested=[{"x": float("inf")}])
    manifest = read_manifest(folder.path)
    assert manifest["schema"] == store.SCHEMA
    assert manifest["value"] is None
    assert manifest["nested"] == [{"x": None}]
    (folder.path / "manifest.json").write_text(json.dumps({"schema": store.SCHEMA + 1, "command": "explain"}))
    with pytest.raises(InputError, match="newer phosphene"):
        read_manifest(folder.path)


def test_folders_in_the_way(tmp_path):
    run = RunFolder.create(tmp_path / "run", "explain")
    assert RunFolder.create(tmp_path / "run", "explain").path == run.path  # still empty
    run.save_manifest()
    with pytest.raises(OptionError, match="--overwrite"):
        RunFolder.create(tmp_path / "run", "explain")
    (run.path / "deep").mkdir()
    (run.path / "link").symlink_to(tmp_path)
    RunFolder.create(tmp_path / "run", "explain", overwrite=True)
    assert list(run.path.iterdir()) == []
    assert tmp_path.is_dir()


def test_links_to_nowhere_are_called_so(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for out in ("link", "link/below/run"):
        with pytest.raises(OptionError, match=r"link: is a link to nowhere \(.*gone\); choose another --out"):
            RunFolder.create(tmp_path / out, "explain")
    with pytest.raises(OutputError, match="cannot be written"):
        RunFolder.create(tmp_path / ("x" * 300), "explain")
    (tmp_path / "gone").mkdir()
    RunFolder.create(tmp_path / "link" / "run", "explain")
    assert (tmp_path / "gone" / "run").is_dir()


@given(st.recursive(st.floats() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)))
def test_without_nan_is_json(value):
    json.dumps(without_nan(value), allow_nan=False)


def test_a_run_that_was_stopped_can_be_gone_on_with_and_that_is_said(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rows.jsonl").write_text("{}\n")
    for complete, more in ((False, ", --resume to go on with it,"), (True, "")):
        (tmp_path / "run" / "manifest.json").write_text(json.dumps({"complete": complete}))
        with pytest.raises(OptionError) as error:
            RunFolder.create(tmp_path / "run", "explain")
        assert str(error.value).endswith(f"exists already; add --overwrite{more} or choose another --out")
