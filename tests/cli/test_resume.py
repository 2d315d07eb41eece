"""explain runs that are stopped, killed and gone on with, and pictures from every kind of source."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import phosphene
from phosphene.cancel import Cancel
from phosphene.errors import CancelledError
from phosphene.files import MANIFEST
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.explain import explain_pictures
from phosphene.store import row_to_json
from phosphene.tasks import ExplainConfig
from tests import networks
from tests.cli.running import partial_files
from tests.cli.running import phosphene as command

COUNT = 15  # three batches and a part of a fourth
CONFIG = ExplainConfig.of(["saliency", "rise:masks=8,cells=4"], classes="top2", batch_size=4)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for number in range(COUNT):
        values = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
        path = folder / str(number % 3) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    (folder / "1" / "004.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def network():
    return networks.classifier_of(networks.pooled(), labels=list("abcde"))


def explained(pictures, network, out, *, resume=False, config=CONFIG, **common):
    return explain_pictures([str(pictures)], config, CommonOptions(network, out=str(out), **common), resume=resume)


def without_times(row):
    """The row as JSON without what a clock says."""
    text = json.dumps(row_to_json(row))
    return json.loads(text, object_hook=lambda found: {k: v for k, v in found.items() if k != "seconds"})


def files_of(run):
    """The bytes of all maps and pictures."""
    skipped = (MANIFEST, "rows.jsonl", "report.html")
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*.*") if p.is_file() and p.name not in skipped}


def lines_of(place: Path) -> int:
    rows = place / "rows.jsonl"
    return rows.read_bytes().count(b"\n") if rows.is_file() else 0


def killed_when(there: int, place: Path, later: float, work: Callable[[], object]) -> None:
    """Do the work in a child process and kill it a little later than it has written so many rows."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
            work()
        finally:
            os._exit(0)
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if lines_of(place) >= there:
            time.sleep(later)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.002)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("scale", ["image", "shared"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of forks beside threads
def test_killed_at_random_moments(tmp_path, pictures, network, scale):
    config = replace(CONFIG, scale=scale)
    begin = time.perf_counter()
    explained(pictures, network, tmp_path / "whole", config=config)
    seconds = time.perf_counter() - begin
    whole = phosphene.open_run(tmp_path / "whole")
    wanted, files = {row.key: without_times(row) for row in whole.rows()}, files_of(tmp_path / "whole")
    draw, run, interrupted, before = random.Random(3), tmp_path / "run", 0, frozenset()
    # While pictures are first looked at, as soon as there are two rows, and later in the midst of them.
    for there, later in ((0, 0.4 * seconds), (2, 0), (7, 0.1)):
        work = partial(explained, pictures, network, run, resume=True, config=config)
        killed_when(there, run, draw.random() * later, work)
        if not (run / MANIFEST).is_file():
            continue
        found = phosphene.open_run(run)
        assert found.done >= before
        assert set(found.missing) == set(wanted) - found.done
        for row in found:
            for shown in row.maps:
                np.load(found.path(shown.map))
                with Image.open(found.path(shown.overlay)) as overlay:
                    overlay.load()
        if 0 < len(found.done) < COUNT:
            interrupted += 1
            assert not found.is_complete
        before = found.done
    assert interrupted >= 2
    explained(pictures, network, run, resume=True, config=config)
    found = phosphene.open_run(run)
    assert found.is_complete
    assert {row.key: without_times(row) for row in found.rows()} == wanted
    assert files_of(run) == files
    assert not partial_files(run)


def test_a_stop_keeps_what_is_done_and_can_be_gone_on_with(tmp_path, pictures, network):
    cancel, seen = Cancel(), []

    def announce(done, total, text):
        seen.append(text)
        if done >= 4 and text.endswith(".png"):
            cancel.cancel()

    with pytest.raises(CancelledError):
        explained(pictures, network, tmp_path / "run", announce=announce, cancel=cancel)
    run = phosphene.open_run(tmp_path / "run")
    assert not run.is_complete
    assert 0 < len(run.done) < COUNT
    assert len(run.missing) == COUNT - len(run.done)
    assert (tmp_path / "run" / "report.html").is_file()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("phosphene")]
    answer = explained(pictures, network, tmp_path / "run", resume=True)
    assert [row["status"] for row in answer["images"]].count("error") == 1
    assert len(answer["images"]) == COUNT
    assert phosphene.open_run(tmp_path / "run").is_complete


def test_a_stop_comes_between_the_passes_of_a_slow_method(tmp_path, pictures, network):
    cancel, steps = Cancel(), []

    def announce(done, total, text):
        if text.startswith("rise"):
            steps.append(done)
            cancel.cancel()

    config = ExplainConfig.of(["rise:masks=64,cells=4"])
    with pytest.raises(CancelledError):
        explained(pictures, network, tmp_path / "run", config=config, announce=announce, cancel=cancel)
    assert len(steps) == 1


def test_an_interrupt_of_the_command_is_a_stop(tmp_path, pictures, monkeypatch):
    from phosphene.store import FolderSink

    write = FolderSink.write

    def interrupted(sink, row):
        write(sink, row)
        if len(list(sink.folder.path.glob("*/picture.jpg"))) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FolderSink, "write", interrupted)
    out = tmp_path / "run"
    outcome = command("explain", pictures / "0", "--method", "cam", "--out", out)
    assert outcome.code == 130
    assert "what was finished is kept" in outcome.err
    assert len(phosphene.open_run(out).done) == 3
    monkeypatch.undo()
    resumed = command("explain", pictures / "0", "--method", "cam", "--out", out, "--resume", "--json")
    assert resumed.code == 0
    assert len(resumed.json["images"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "saliency"], "another methods"),
        (["--method", "cam", "--seed", "3"], "seed"),
        (["--method", "cam", "--overwrite"], "drop one of them"),
    ],
)
def test_a_run_goes_on_under_its_own_plan_only(tmp_path, pictures, arguments, message):
    out = tmp_path / "run"
    assert command("explain", pictures / "0" / "000.png", "--method", "cam", "--out", out).code == 0
    outcome = command("explain", pictures / "0" / "000.png", *arguments, "--out", out, "--resume")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_resume_needs_a_place(pictures):
    assert "--resume needs --out" in command("explain", pictures, "--resume").err


def test_what_is_done_is_not_read_again(tmp_path, pictures, network):
    out = tmp_path / "run"
    first = explained(pictures, network, out)
    written = (out / "rows.jsonl").read_bytes()
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"gone")
    again = explained(pictures, network, out, resume=True)
    assert (out / "rows.jsonl").read_bytes() == written
    assert again["images"] == first["images"]


def test_tables_archives_patterns_and_urls(tmp_path, network):
    names = ["a.png", "b.png"]
    for number, name in enumerate(names):
        Image.fromarray(np.full((20, 20, 3), 60 + 60 * number, np.uint8)).save(tmp_path / name)
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "camera"], *([name, "b", "left"] for name in names)])
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for name in names:
            archive.add(tmp_path / name, f"val/{name}")
    specs = {"table": "table.csv", "tar": "shard.tar", "glob": "*.png"}
    for kind, spec in specs.items():
        common = CommonOptions(network, out=str(tmp_path / kind))
        answer = explain_pictures([str(tmp_path / spec)], ExplainConfig.of(["saliency"]), common)
        assert [row["status"] for row in answer["images"]] == ["ok", "ok"], kind
        assert len({row["maps"][0]["map"] for row in answer["images"]}) == 2
        if kind == "table":
            assert [(row["label"], row["columns"]) for row in answer["images"]] == [("b", {"camera": "left"})] * 2
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/explain/a.png", (tmp_path / "a.png").read_bytes())
    common = CommonOptions(network, out=str(tmp_path / "url"))
    mixed = ["memory://explain", str(tmp_path / "b.png"), str(tmp_path / "none.csv")]
    answer = explain_pictures(mixed, ExplainConfig.of(["saliency"], scale="shared"), common)
    memory.rm("/explain", recursive=True)
    assert [row["status"] for row in answer["images"]] == ["ok", "ok", "error"]
    assert answer["images"][0]["path"] == "memory://explain/a.png"
    assert {row["maps"][0]["scale"]["over"] for row in answer["images"][:2]} == {"shared"}
