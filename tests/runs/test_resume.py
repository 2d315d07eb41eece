"""impress and features that are stopped, killed and gone on with; features of pictures from every kind of source."""

from __future__ import annotations

import csv
import os
import random
import signal
import tarfile
from pathlib import Path

import fsspec
import pytest
import torch

import phosphene
from phosphene.cancel import Cancel
from phosphene.errors import CancelledError, OptionError
from phosphene.files import MANIFEST
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.features import draw_features
from phosphene.runs.impress import impress_images
from phosphene.store import FolderSink
from phosphene.tasks import FeaturesConfig, ImpressConfig
from tests import networks
from tests.cli.running import partial_files
from tests.cli.running import phosphene as command
from tests.cli.test_resume import files_of, killed_when, without_times
from tests.tasks.test_features import QUICK, folder_of

IMPRESS = ImpressConfig(classes=("0", "1", "2", "3"), recipe="class_model", steps=4, count=4)
FEATURES = FeaturesConfig(("0", "1", "3", "4", "5"), facets=2, exemplars=3, recipe=QUICK)
LAYERS = ("0", "1", "3", "4", "5")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return networks.classifier_of(networks.pooled(), labels=list("abcde"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("pictures"), (5, 6))


@pytest.fixture(scope="module", params=["impress", "features"])
def work(request, network, pictures):
    """What makes, or goes on with, a run of one of the commands in a folder."""

    def run(out: Path, *, resume: bool = False, **common: object) -> dict[str, object]:
        facts = CommonOptions(network, out=str(out), seed=3, **common)  # type: ignore[arg-type]
        if request.param == "impress":
            return impress_images(IMPRESS, facts, judge="none", resume=resume)
        return draw_features([str(pictures)], FEATURES, facts, resume=resume)

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, work):
    """(folder, answer) of a run that was never disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, work(folder)


def rows_of(place: Path) -> dict[str, object]:
    """Rows by key, without what tells the time."""
    return {
        row.key: {key: value for key, value in without_times(row).items() if not key.startswith("seconds")}
        for row in phosphene.open_run(place).rows()
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of forks beside threads
def test_killed_at_random_moments(tmp_path, work, whole):
    wanted, files = rows_of(whole[0]), files_of(whole[0])
    draw, run, before = random.Random(5), tmp_path / "run", frozenset()
    for there in (0, 1, len(wanted) - 2):
        killed_when(there, run, draw.random() * 0.05, lambda: work(run, resume=True))
        if not (run / MANIFEST).is_file():
            continue
        found = phosphene.open_run(run)
        assert found.done >= before
        assert set(found.missing) == set(wanted) - found.done
        before = found.done
    assert len(before) >= len(wanted) - 2
    work(run, resume=True)
    assert phosphene.open_run(run).is_complete
    assert rows_of(run) == wanted
    assert files_of(run) == files
    assert not partial_files(run)


def test_a_stop_keeps_what_is_done_and_can_be_gone_on_with(tmp_path, work, whole):
    cancel, run = Cancel(), tmp_path / "run"
    place = {"rows": 0}

    def announce(_done: int, _total: int, _text: str) -> None:
        place["rows"] = len((run / "rows.jsonl").read_text().splitlines()) if run.exists() else 0
        if place["rows"]:
            cancel.cancel()

    with pytest.raises(CancelledError):
        work(run, announce=announce, cancel=cancel)
    found = phosphene.open_run(run)
    assert found.done
    assert not found.is_complete
    assert (run / "report.html").is_file()
    work(run, resume=True)
    assert rows_of(run) == rows_of(whole[0])
    assert files_of(run) == files_of(whole[0])


def test_a_run_that_is_done_is_not_done_again(work, whole):
    run, first = whole
    written = (run / "rows.jsonl").read_bytes()
    assert work(run, resume=True) == first
    assert (run / "rows.jsonl").read_bytes() == written
    with pytest.raises(OptionError, match="drop one of them"):
        work(run, resume=True, overwrite=True)


def test_features_goes_on_with_the_same_pictures_only(tmp_path, network, pictures):
    common = CommonOptions(network, out=str(tmp_path / "run"))
    few = [str(path) for path in sorted(pictures.glob("*.png"))]
    draw_features(few[:6], FEATURES, common)
    with pytest.raises(OptionError, match="pictures_sha256"):
        draw_features(few[1:7], FEATURES, common, resume=True)


@pytest.mark.parametrize("name", ["impress", "features"])
def test_an_interrupt_of_the_command_is_a_stop(tmp_path, pictures, monkeypatch, name):
    write = FolderSink.write

    def interrupted(sink: FolderSink, row: object) -> None:
        write(sink, row)
        if len((sink.folder.path / "rows.jsonl").read_text().splitlines()) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FolderSink, "write", interrupted)
    (tmp_path / "small.py").write_text(
        "from tests.networks import classifier_of, pooled\n\ndef make():\n    return classifier_of(pooled(9))\n"
    )
    common = ("--model", f"{tmp_path / 'small.py'}:make", "--out", tmp_path / "run")
    if name == "impress":
        arguments = ("impress", *range(9), "--recipe", "class_model", "--steps", 1, "--judge", "none", *common)
        done = 8  # of the batch under way all that there is
    else:
        layers = ("--layer", "2", "--layer", "4")
        arguments = ("features", pictures, *layers, "--facets", 1, "--exemplars", 2, "--steps", 1, *common)
        done = 1
    stopped = command(*arguments)
    assert stopped.code == 130
    assert "what was finished is kept" in stopped.err
    assert len(phosphene.open_run(tmp_path / "run").done) == done
    monkeypatch.undo()
    assert command(*arguments, "--resume").code == 0
    assert phosphene.open_run(tmp_path / "run").is_complete


def test_features_of_tables_archives_patterns_and_urls(tmp_path, network, pictures):
    config = FeaturesConfig(("4",), facets=2, exemplars=3, recipe=QUICK)
    paths = sorted(pictures.glob("*.png"))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path"], *([str(path)] for path in paths)])
    with tarfile.open(tmp_path / "shard.tar.gz", "w:gz") as archive:
        for path in paths:
            archive.add(path, path.name)
    memory = fsspec.filesystem("memory")
    for path in paths:
        memory.pipe(f"/features/{path.name}", path.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    specs = {
        "folder": [str(pictures)],
        "table": [str(tmp_path / "table.csv")],
        "tar": [str(tmp_path / "shard.tar.gz")],
        "pattern": [str(pictures / "*.png")],
        "url": ["memory://features", str(tmp_path / "broken.png")],
    }
    runs = {
        kind: draw_features(spec, config, CommonOptions(network, out=str(tmp_path / kind)))
        for kind, spec in specs.items()
    }
    memory.rm("/features", recursive=True)
    images = [Path(facet["image"]).read_bytes() for facet in runs["folder"]["layers"][0]["facets"]]
    for kind, answer in runs.items():
        facets = answer["layers"][0]["facets"]
        assert [Path(facet["image"]).read_bytes() for facet in facets] == images, kind
        assert len(answer["errors"]) == (kind == "url")
        names = [[Path(one["path"]).name for one in facet["exemplars"]] for facet in facets]
        assert names == [
            [Path(one["path"]).name for one in facet["exemplars"]] for facet in runs["folder"]["layers"][0]["facets"]
        ]
    assert runs["url"]["layers"][0]["facets"][0]["exemplars"][0]["path"].startswith("memory://features/")
