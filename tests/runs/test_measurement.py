"""evaluate runs that are stopped, killed and gone on with: the figures of one that was never disturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import phosphene
from phosphene.cancel import Cancel
from phosphene.errors import CancelledError, InputError, OptionError
from phosphene.evaluation.pieces import Piece
from phosphene.report import write_report
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.concepts import measure_concepts
from phosphene.runs.craft import find_concepts
from phosphene.runs.faithfulness import measure_faithfulness
from phosphene.runs.impressions import evaluate_impressions
from phosphene.runs.localization import evaluate_localization
from phosphene.runs.measurement import Measurement
from phosphene.runs.sanity import check_sanity
from phosphene.runtime import prepare
from phosphene.store import FolderSink
from tests import networks
from tests.cli.running import partial_files
from tests.cli.running import phosphene as command
from tests.cli.test_resume import files_of, killed_when, lines_of

# Enough for two batches and a part of a third of eight pictures, or one and a part of sixteen.
COUNT = 19
KILLS = 3
METHODS = ["saliency", "rise:masks=8,cells=4"]
KINDS = ("localization", "faithfulness", "sanity", "concepts", "craft", "impressions")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return networks.classifier_of(networks.pooled(), labels=list("abcde"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Shared by all tests: who changes one puts it back."""
    folder = tmp_path_factory.mktemp("measured") / "pictures"
    for kind, count in (("own", COUNT), ("concept", 12), ("random", 36)):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            values = np.random.default_rng([count, number]).integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(values).save(folder / kind / f"{number:03d}.png")
    (folder / "own" / "004.png").write_bytes(b"no picture")
    rows = "".join(f"{number:03d}.png,{number % 5},4,4,18,16\n" for number in range(COUNT))
    (folder / "boxes.csv").write_text("file,class_index,x0,y0,x1,y1\n" + rows)
    return folder


Work = Callable[..., dict[str, Any]]


def work_of(kind: str, network: object, pictures: Path) -> Work:
    """What makes, or goes on with, a run of one kind in a folder."""

    def run(out: Path, *, resume: bool = False, seed: int = 3, limit: int = 0, **common: Any) -> dict[str, Any]:
        facts = CommonOptions(network, out=str(out), seed=seed, **common)  # type: ignore[arg-type]
        own = str(pictures / "own")
        if kind == "localization":
            return evaluate_localization(
                own, str(pictures / "boxes.csv"), facts, methods=METHODS, segments=["threshold", "graphcut"],
                limit=limit or None, resume=resume,
            )  # fmt: skip
        if kind == "concepts":
            concept, others = [str(pictures / "concept")], [str(pictures / "random")]
            return measure_concepts(
                [own], concept, others, facts, target=1, layers=["3"], sets=3, limit=limit, resume=resume
            )
        if kind == "craft":
            return find_concepts(
                [own], facts, target=1, layer="2", concepts=2, crops=2, designs=2, limit=limit, resume=resume
            )
        if kind == "impressions":
            return evaluate_impressions(
                ["0", "1"], ["class_model:steps=2", "sci:steps=3"], facts, count=5 - limit, judge="none", resume=resume
            )
        measure = measure_faithfulness if kind == "faithfulness" else check_sanity
        return measure([own], METHODS, facts, limit=limit, resume=resume)  # type: ignore[operator]

    return run


@pytest.fixture(scope="module", params=KINDS)
def work(request, network, pictures):
    return work_of(request.param, network, pictures)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, work):
    """(folder, answer) of a run that was never disturbed, to be read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, work(folder)


def figures(answer: dict[str, Any]) -> str:
    """The answer without what a clock says and where it lies."""

    def timeless(found: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in found.items() if "seconds" not in name and name != "ms_per_step"}

    text = json.dumps(answer).replace(str(answer["run"]), "RUN")
    return json.dumps(json.loads(text, object_hook=timeless), sort_keys=True)


def written_once(run: Path) -> bool:
    counts = Counter(json.loads(line)["key"] for line in (run / "rows.jsonl").read_text().splitlines())
    return set(counts.values()) == {1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of forks beside threads
def test_killed_at_random_moments(tmp_path, work, whole):
    pieces = lines_of(whole[0])
    draw, run, before = random.Random(5), tmp_path / "run", 0
    for there in sorted(draw.sample(range(1, pieces), min(KILLS, pieces - 1))):
        killed_when(there, run, draw.random() * 0.02, lambda: work(run, resume=True))
        assert lines_of(run) >= before
        before = lines_of(run)
    kept = (run / "rows.jsonl").read_bytes()
    assert figures(work(run, resume=True)) == figures(whole[1])
    assert (run / "rows.jsonl").read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert written_once(run)
    assert lines_of(run) == pieces
    assert phosphene.open_run(run).is_complete
    assert files_of(run) == files_of(whole[0])
    assert not partial_files(run)


def test_a_stop_keeps_what_is_measured_and_can_be_gone_on_with(tmp_path, work, whole):
    cancel, run = Cancel(), tmp_path / "run"

    def announce(_done: int, _total: int, _text: str) -> None:
        if run.exists() and lines_of(run) >= 2:
            cancel.cancel()

    with pytest.raises(CancelledError) as stopped:
        work(run, announce=announce, cancel=cancel)
    assert stopped.value.place == str(run)
    assert lines_of(run) >= 2
    assert not phosphene.open_run(run).is_complete
    with pytest.raises(InputError, match="--resume"):
        write_report(run)
    assert figures(work(run, resume=True)) == figures(whole[1])
    assert written_once(run)
    assert files_of(run) == files_of(whole[0])


def test_what_is_measured_is_not_looked_at_again(tmp_path, work, whole, pictures):
    run = shutil.copytree(whole[0], tmp_path / "run")
    written = (run / "rows.jsonl").read_bytes()
    kept = {path: path.read_bytes() for path in pictures.rglob("*.png")}
    try:
        for path in kept:
            path.write_bytes(b"gone")
        assert figures(work(run, resume=True)) == figures(whole[1])
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert (run / "rows.jsonl").read_bytes() == written
    with pytest.raises(OptionError, match="drop one of them"):
        work(run, resume=True, overwrite=True)


def test_a_run_goes_on_under_its_own_plan_only(work, whole):
    with pytest.raises(OptionError, match=r"made with another .*seed .then"):
        work(whole[0], seed=4, resume=True)
    with pytest.raises(OptionError, match=r"made with another .*\b(limit|count)"):
        work(whole[0], limit=4, resume=True)


def test_to_go_on_a_place_is_needed(network):
    with pytest.raises(OptionError, match="--resume needs --out"):
        evaluate_impressions(["0"], ["sci:steps=1"], CommonOptions(network), resume=True)


def test_other_pictures_and_other_boxes_are_another_plan(tmp_path, network, pictures):
    pictures = shutil.copytree(pictures, tmp_path / "pictures")
    faithful = work_of("faithfulness", network, pictures)
    located = work_of("localization", network, pictures)
    faithful(tmp_path / "faithful", limit=1)
    located(tmp_path / "located", limit=1)
    (pictures / "own" / "000.png").rename(pictures / "own" / "000-other.png")
    with pytest.raises(OptionError, match="pictures_sha256"):
        faithful(tmp_path / "faithful", limit=1, resume=True)
    (pictures / "own" / "000-other.png").rename(pictures / "own" / "000.png")
    boxes = pictures / "boxes.csv"
    boxes.write_text(boxes.read_text().replace("000.png,0,4", "000.png,0,5"))
    with pytest.raises(OptionError, match="boxes_sha256"):
        located(tmp_path / "located", limit=1, resume=True)


def test_pictures_that_overwriting_would_clear_are_refused(tmp_path, network, pictures):
    work = work_of("sanity", network, pictures)
    with pytest.raises(OptionError, match="which --overwrite would clear"):
        work(pictures, limit=1, overwrite=True)
    assert len(list((pictures / "own").iterdir())) == COUNT


def test_numbers_that_are_none_come_back_as_such(tmp_path, network):
    common, classifier = CommonOptions(network, out=str(tmp_path / "run")), prepare(network)
    piece = Piece({"values": [0.1, float("nan")], "notes": {"a": 2}}, {"map": np.eye(2, dtype=np.float32)})
    with Measurement("sanity", common, classifier) as run:
        run.keep("one", lambda: piece)
    with Measurement("sanity", common, classifier, resume=True) as run:
        found = run.keep("one", lambda: pytest.fail("is known"))
    assert found.values["values"][0] == 0.1
    assert np.isnan(found.values["values"][1])
    assert found.values["notes"] == {"a": 2}
    np.testing.assert_array_equal(found.arrays["map"], np.eye(2, dtype=np.float32))


def test_a_piece_whose_array_is_gone_is_measured_again(tmp_path, network):
    common, classifier = CommonOptions(network, out=str(tmp_path / "run")), prepare(network)
    for resume in (False, True):
        with Measurement("sanity", common, classifier, resume=resume) as run:
            made: list[int] = []
            run.keep("one", lambda made=made: made.append(1) or Piece({}, {"map": np.eye(2)}))
            run.keep("two", lambda made=made: made.append(2) or Piece({"a": 1}))
            assert made == ([1] if resume else [1, 2])
            run.drop_arrays(but="none")


def test_what_is_refused_half_way_leaves_no_folder(tmp_path, network):
    common, classifier = CommonOptions(network, out=str(tmp_path / "run")), prepare(network)

    def refused() -> None:
        with Measurement("concepts", common, classifier) as run:
            run.keep("one", lambda: Piece({"a": 1}))
            raise OptionError("all behind the layer is linear")

    with pytest.raises(OptionError, match="linear"):
        refused()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["localization", "faithfulness", "sanity", "concepts"])
def test_an_interrupt_of_the_command_is_a_stop(tmp_path, pictures, monkeypatch, kind):
    write = FolderSink.write

    def interrupted(sink: FolderSink, row: object) -> None:
        write(sink, row)
        if lines_of(sink.folder.path) == 2:
            signal.raise_signal(signal.SIGINT)

    (tmp_path / "small.py").write_text(
        "from tests import networks\n\n\ndef make():\n"
        "    return networks.classifier_of(networks.pooled(), labels=list('abcde'))\n"
    )
    monkeypatch.setattr(FolderSink, "write", interrupted)
    given = {
        "localization": ["--boxes", pictures / "boxes.csv", "--method", "saliency"],
        "faithfulness": ["--method", "saliency", "--limit", 3],
        "sanity": ["--method", "saliency", "--limit", 3],
        "concepts": [
            "--class", "b", "--concept", pictures / "concept", "--random", pictures / "random", "--sets", 3,
            "--layer", "3",
        ],
    }[kind]  # fmt: skip
    arguments = ["evaluate", kind, "--images", pictures / "own", "--model", f"{tmp_path / 'small.py'}:make", *given]
    arguments += ["--out", tmp_path / "run"]
    stopped = command(*arguments)
    assert stopped.code == 130, stopped.err
    assert f"what was finished is kept in {tmp_path / 'run'}; the same command with --out" in stopped.err
    assert "--resume goes on" in stopped.err.splitlines()[-1]
    assert lines_of(tmp_path / "run") == 2
    monkeypatch.undo()
    refused = command(*arguments, "--resume", "--seed", 5)
    assert refused.code == 2
    assert "seed (then 0); give the same as then, another --out, or --overwrite" in refused.err
    assert command(*arguments, "--resume").code in (0, 1)
    assert phosphene.open_run(tmp_path / "run").is_complete
