"""impress, fuse and their runs: what comes back, what is written, what resuming and Ctrl-C leave."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from phosphene.classifier import Classifier, Preprocess
from phosphene.cli.impress import drawn
from phosphene.errors import CancelledError, InputError, ModelError, OptionError, PhospheneWarning
from phosphene.images import to_pil
from phosphene.runs import impress as module
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.impress import impress_images
from phosphene.runtime import prepare
from phosphene.targets import Target, Unit
from phosphene.tasks.impress import ImpressConfig, random_pairs
from phosphene.tasks.impressions import Job, batched, configured, fuse, impress, synthesize
from phosphene.tasks.predict import predict
from phosphene.tasks.read_impressions import judge_impressions, read_impressions, same_class
from tests.synthesis.test_ascent import tiny


def common(tmp_path: Path, **options: Any) -> CommonOptions:
    return CommonOptions(model=tiny(), out=str(tmp_path / "run"), **options)


def test_impress_gives_one_image_per_class_and_seed() -> None:
    made = impress(tiny(), [2, 0], steps=5, count=2, seed=7)
    assert [(one.target.classes, one.seed) for one in made] == [((2,), 7), ((2,), 8), ((0,), 7), ((0,), 8)]
    assert all(one.image.shape == (3, 16, 16) and one.steps == 5 and len(one.probabilities) == 5 for one in made)
    assert made[0].spec == "sci:steps=5"
    assert not torch.equal(made[0].image, made[1].image)


def test_impress_draws_units_and_other_recipes() -> None:
    unit = impress(tiny(), Target(unit=Unit("2", 3)), "class_model", preset="paper", steps=4)[0]
    assert (unit.spec, unit.preset, unit.probabilities) == ("class_model:preset=paper,steps=4", "paper", ())
    assert unit.scores[-1] > unit.scores[0]


class Nearest(nn.Sequential):
    """Votes of the features that lie nearest, which say nothing of how to come nearer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x)
        bank = torch.linspace(-1, 1, 9 * found.shape[1]).view(9, -1)
        return F.one_hot(torch.cdist(found, bank).topk(3, largest=False).indices % 3, 3).float().mean(1)


@pytest.mark.filterwarnings("ignore:Nearest returns probabilities")
@pytest.mark.parametrize("recipe", ["sci", "class_model", "class_impression"])
def test_of_a_network_without_a_gradient_nothing_is_drawn(recipe: str) -> None:
    """Where norms remember statistics these alone would draw a picture."""
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    classifier = Classifier(Nearest(*layers).eval(), Preprocess((16, 16)))
    with pytest.raises(ModelError, match="no gradient reaches the pictures: Nearest cuts it off"):
        impress(classifier, 1, recipe, steps=2)
    assert impress(classifier, Target(unit=Unit("0", 1)), "class_model", steps=2)[0].image.isfinite().all()


def test_fuse_takes_one_group_or_several() -> None:
    assert [made.target.classes for made in fuse(tiny(), [0, 2], steps=4)] == [(0, 2)]
    assert [made.target.classes for made in fuse(tiny(), [(0, 2), (1, 3, 0)], steps=4)] == [(0, 2), (1, 3, 0)]


def test_recipes_of_one_class_and_of_several_are_not_mixed_up() -> None:
    with pytest.raises(OptionError, match="to fuse 0\\+1 use fuse"):
        fuse(tiny(), [0, 1], "sci", steps=3)
    with pytest.raises(OptionError, match="for one use impress"):
        impress(tiny(), 0, "fuse", steps=3)


def test_preset_and_steps_are_set_once() -> None:
    assert str(configured("sci:radius=0.2", "paper", 9)) == "sci:preset=paper,steps=9,radius=0.2"
    with pytest.raises(OptionError, match="give it once"):
        configured("sci:steps=3", None, 4)
    with pytest.raises(OptionError, match="no preset 'worst'"):
        configured("sci", "worst", None)


def test_batches_depend_on_the_list_alone() -> None:
    jobs = [Job(Target.of(index % 4)) for index in range(5)] + [Job(Target.of((0, 1)))]
    sizes = [len(batch) for batch in batched(jobs, prepare(tiny()), 2)]
    assert sizes == [2, 2, 1, 1]


@pytest.mark.parametrize(("steps", "kept"), [(12, (1, 3, 6, 9, 12)), (11, (1, 2, 4, 6, 8, 10, 11))])
def test_frames_are_kept_along_the_way_the_finished_image_among_them(steps: int, kept: tuple[int, ...]) -> None:
    made = impress(tiny(), 1, steps=steps, frames=4)[0]
    assert made.frames is not None
    assert made.frame_steps == kept
    torch.testing.assert_close(made.frames[-1], (made.image * 255).round().to(torch.uint8))


def test_an_interruption_yields_what_there_is_and_is_passed_on() -> None:
    def progress(done: int, _total: int, _text: str) -> None:
        if done >= 4:
            raise CancelledError

    jobs = [Job(Target.of(0)), Job(Target.of(1))]
    rows = []
    with pytest.raises(CancelledError):
        rows.extend(synthesize(prepare(tiny()), jobs, "sci:steps=9", progress=progress))
    making = synthesize(prepare(tiny()), jobs, "sci:steps=9", progress=progress)
    first = next(making)
    assert (first.steps, first.stopped) == (2, True)
    assert next(making).stopped
    with pytest.raises(CancelledError):
        next(making)


def test_own_reading_is_of_the_picture_as_saved() -> None:
    classifier = tiny()
    made = impress(classifier, [1], steps=6)
    own = read_impressions(classifier, made)[0]
    saved = (made[0].image * 255).round()[None] / 255
    expected = prepare(classifier).logits(saved).softmax(dim=1)[0, 1].item()
    assert own.classes[0].probability == pytest.approx(expected, abs=1e-6)
    assert own.single_object_index is not None
    assert own.object_count is not None
    assert own.entropy is not None


def test_heads_without_probabilities_and_units_have_no_index() -> None:
    scores = tiny(head="score")
    own = read_impressions(scores, impress(scores, [1], steps=4))[0]
    assert (own.single_object_index, own.entropy) == (None, None)
    unit = read_impressions(tiny(), impress(tiny(), Target(unit=Unit("2", 3)), steps=4))[0]
    assert (unit.classes, unit.single_object_index) == ((), None)


def test_scores_are_not_told_as_percent(tmp_path: Path) -> None:
    options = CommonOptions(model=tiny(head="score"), out=str(tmp_path / "run"))  # type: ignore[arg-type]
    answer = impress_images(ImpressConfig(classes=("1",), steps=4), options)
    assert "%" not in drawn(answer).text
    usual = impress_images(ImpressConfig(classes=("1",), steps=4), common(tmp_path / "usual"))
    assert "class 1 " in drawn(usual).text
    assert "%" in drawn(usual).text


def test_a_judge_of_another_size_and_order_of_classes() -> None:
    maker, judge = tiny(), tiny(classes=4)
    maker.labels = type(maker.labels)(("ant", "bee", "cat", "dog"))
    judge.labels = type(judge.labels)(("dog", "cat", "bee", "ant"))
    judge.preprocess = type(judge.preprocess)((20, 12), mean=(0.5,) * 3, std=(0.25,) * 3)
    made = impress(maker, "bee", steps=4)
    read = judge_impressions(judge, made, maker)[0]
    assert read is not None
    assert (read.classes[0].index, read.classes[0].label) == (2, "bee")
    assert read.top5
    judge.labels = type(judge.labels)(("elk", "fox", "gnu", "hen"))
    with pytest.raises(OptionError, match="has no class 'bee'"):
        same_class(judge, maker, 1)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda: tiny(classes=3), "the judge Sequential has 3 classes, no 3"),
        (lambda: tiny(channels=6), "a picture of 3 channels for a network of 6"),
        (lambda: Classifier(tiny().module, tiny().preprocess, ["elk", "fox", "gnu", "hen"]), "has no class 'dog'"),
    ],
    ids=["classes", "channels", "names"],
)
def test_a_judge_that_cannot_read_the_pictures_is_refused_before_they_are_drawn(
    judge: Any, message: str, tmp_path: Path
) -> None:
    maker = tiny()
    maker.labels = type(maker.labels)(("ant", "bee", "cat", "dog") if "dog" in message else ())
    with pytest.raises((OptionError, InputError), match=message):
        impress_images(
            ImpressConfig(classes=("3",), steps=2),
            CommonOptions(model=maker, out=str(tmp_path / "run")),  # type: ignore[arg-type]
            judge=judge(),
        )
    assert not (tmp_path / "run").exists()
    made = impress(maker, 3, steps=2)
    with pytest.raises((OptionError, InputError), match=message):
        judge_impressions(judge(), made, maker)


def test_a_run_writes_pictures_readings_and_a_report(tmp_path: Path) -> None:
    config = ImpressConfig(classes=("1", "2"), steps=6, count=2, frames=True)
    answer = impress_images(config, common(tmp_path))
    assert len(answer["impressions"]) == 4
    row = answer["impressions"][0]
    assert {"classes", "entropy", "image", "recipe", "preset", "steps", "seconds", "seed", "judge"} <= set(row)
    assert {"single_object_index", "object_count"} <= set(row)
    assert row["judge"] is None
    with Image.open(row["image"]) as image:
        assert image.size == (16, 16)
    with Image.open(row["animation"]) as animation:
        assert animation.n_frames > 1
    json.dumps(answer)
    assert "first impression with its strongest disc" in Path(answer["report"]).read_text()
    assert json.loads((tmp_path / "run/manifest.json").read_text())["complete"]


def stop_after(steps: int) -> Any:
    def announce(done: int, _total: int, _text: str) -> None:
        if done >= steps:
            raise CancelledError

    return announce


def test_a_stopped_run_keeps_what_is_there_and_resuming_gives_the_same_bits(tmp_path: Path) -> None:
    config = ImpressConfig(classes=("0", "1", "2", "3"), steps=6, count=3)
    whole = impress_images(config, CommonOptions(model=tiny(), out=str(tmp_path / "whole")))
    with pytest.raises(CancelledError):
        impress_images(config, common(tmp_path, announce=stop_after(8 * 6 + 4 * 2)))
    kept = json.loads((tmp_path / "run/manifest.json").read_text())
    assert [row["status"] for row in kept["impressions"]] == ["ok"] * 8 + ["stopped"] * 4
    assert not kept["complete"]
    assert "stopped after 2 steps" in (tmp_path / "run/report.html").read_text()

    made: list[int] = []
    answer = impress_images(
        config, common(tmp_path, announce=lambda done, _total, _text: made.append(done)), resume=True
    )
    assert min(made) > 8 * 6
    for row, other in zip(answer["impressions"], whole["impressions"], strict=True):
        assert (row["status"], row["steps"]) == ("ok", 6)
        assert Path(row["image"]).read_bytes() == Path(other["image"]).read_bytes()


def test_a_run_of_something_else_is_not_resumed(tmp_path: Path) -> None:
    impress_images(ImpressConfig(classes=("0",), steps=3), common(tmp_path))
    with pytest.raises(OptionError, match=r"made with another jobs"):
        impress_images(ImpressConfig(classes=("1",), steps=3), common(tmp_path), resume=True)
    with pytest.raises(OptionError, match=r"made with another recipe"):
        impress_images(ImpressConfig(classes=("0",), steps=4), common(tmp_path), resume=True)
    with pytest.raises(OptionError, match="--resume needs --out"):
        impress_images(ImpressConfig(classes=("0",), steps=3), CommonOptions(model=tiny()), resume=True)


def test_fusing_random_pairs_writes_a_table_of_labels(tmp_path: Path) -> None:
    answer = impress_images(ImpressConfig(fused=True, recipe="fuse", steps=6, count=5), common(tmp_path))
    with (tmp_path / "run/labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(answer["impressions"]) == 5
    pairs = ["+".join(map(str, pair)) for pair in random_pairs(4, 5, 0)]
    assert [row["indices"] for row in rows] == pairs
    assert all((tmp_path / "run" / row["image"]).is_file() for row in rows)
    shares = [float(value) for value in rows[0]["probabilities"].split("+")]
    assert shares == pytest.approx([one["probability"] for one in answer["impressions"][0]["classes"]], abs=1e-5)


def test_random_pairs_are_of_the_classes_that_the_network_scores(tmp_path: Path) -> None:
    """Not of what its last layer gives: the width of a map, or the scores of another output."""
    maps = Classifier(nn.Conv2d(3, 3, 1), Preprocess((16, 24)), head="maps")
    config = ImpressConfig(fused=True, recipe="fuse", steps=3, count=6)
    options = CommonOptions(model=maps, out=str(tmp_path / "run"))  # type: ignore[arg-type]
    rows = impress_images(config, options)["impressions"]
    assert {share["index"] for row in rows for share in row["classes"]} == {0, 1, 2}


def test_wishes_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="one or more classes, or --unit"):
        impress_images(ImpressConfig(), common(tmp_path))
    with pytest.raises(OptionError, match="--count 0"):
        impress_images(ImpressConfig(classes=("0",), count=0), common(tmp_path))
    with pytest.raises(OptionError, match="no recipe of impress"):
        impress_images(ImpressConfig(classes=("0",), recipe="fuse"), common(tmp_path))
    with pytest.raises(OptionError, match="for one use impress"):
        impress_images(ImpressConfig(fused=True, classes=("0",), recipe="fuse"), common(tmp_path))
    with pytest.raises(InputError, match="none: no such folder"):
        impress_images(ImpressConfig(classes=("0",), statistics="none"), common(tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("sci:steps=0", "steps=0"),
        ("class_model:preset=worst", "worst"),
        ("sci:radius=-1", "radius=-1.0; give at least 0"),
        ("class_impression:rate=-1", "rate=-1.0; give at least 0"),
        ("class_impression:temperature=0", "give at least 0.01"),
        ("class_model:contrast=inf", "is not a number"),
        ("fuse:even=3", "even=3.0; give at most 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_made(recipe: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        configured(recipe, None, None)


def test_a_transparent_background_is_an_alpha_channel(tmp_path: Path) -> None:
    config = ImpressConfig(classes=("1",), background="transparent", steps=12)
    assert str(config.spec) == "sci:steps=12,background=transparent"
    (row,) = impress_images(config, common(tmp_path))["impressions"]
    with Image.open(row["image"]) as picture:
        assert picture.mode == "RGBA"
        low, high = picture.getchannel("A").getextrema()
    assert low < high


@pytest.mark.parametrize("white", [None, 10000.0])
def test_of_many_bands_all_are_kept_as_the_network_reads_them(white: float | None, tmp_path: Path) -> None:
    """The picture for people has three of them; what was measured is what a file holds."""
    maker = tiny(channels=6)
    scale = 1.0 if white is None else white
    maker.preprocess = Preprocess((16, 16), mean=(0.5 * scale,) * 6, std=(0.25 * scale,) * 6, scale=scale, white=white)
    options = CommonOptions(model=maker, out=str(tmp_path / "run"))  # type: ignore[arg-type]
    (row,) = impress_images(ImpressConfig(classes=("1",), steps=6), options)["impressions"]
    assert np.load(row["bands"]).shape == (16, 16, 6)
    (read,) = predict(maker, row["bands"])
    shares = {one.index: one.probability for one in read}
    assert shares[1] == pytest.approx(row["classes"][0]["probability"], abs=1e-6)


def test_a_preview_grows_while_images_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN", 0.0)
    place, seen = tmp_path / "growing.png", []

    def announce(done: int, _total: int, _text: str) -> None:
        seen.append(place.read_bytes() if place.is_file() else b"")

    config = ImpressConfig(classes=("1", "2"), steps=6)
    rows = impress_images(config, common(tmp_path, announce=announce), preview=str(place))["impressions"]
    assert seen[0] == b""
    assert len(set(seen)) == 6  # (told before each of the steps' pictures, of which the last is there at the end)
    with Image.open(place) as preview, Image.open(rows[0]["image"]) as done:
        assert preview.width > 2 * done.width
        first = np.asarray(preview.convert("RGB").crop((6, 6, 22, 22)))
        assert np.array_equal(first, np.asarray(done.convert("RGB")))


def test_a_preview_that_is_no_picture_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--preview a.txt: give a file that ends in .png"):
        impress_images(ImpressConfig(classes=("0",)), common(tmp_path), preview="a.txt")
    assert not (tmp_path / "run").exists()


def test_statistics_of_a_folder_are_said_in_the_result(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(10):
        to_pil(torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(number))).save(folder / f"{number}.png")
    with pytest.warns(PhospheneWarning, match="companion pictures are drawn once"):
        answer = impress_images(ImpressConfig(classes=("1",), statistics=str(folder), steps=6), common(tmp_path))
    (row,) = answer["impressions"]
    assert row["data_free"] is False
    assert str(folder) in row["recipe"]
    assert "Statistics of a folder of pictures were used" in Path(answer["report"]).read_text()
    plain = impress_images(
        ImpressConfig(classes=("1",), steps=6), CommonOptions(model=tiny(), out=str(tmp_path / "plain"))
    )
    assert plain["impressions"][0]["data_free"] is True
    assert "No photograph was used" in Path(plain["report"]).read_text()
