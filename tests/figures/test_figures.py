"""The figures of the papers: all of them are made, and their verdicts follow from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import NotFoundError, OptionError
from phosphene.figures import Drawn, LeftOutError, Material, figures, papers
from phosphene.figures.report import _copies, _pooled_map
from phosphene.figures.sci import _smoothed_alike, _variation
from phosphene.metrics.instances import instance_peaks, instances_found
from phosphene.runtime import prepare
from phosphene.types import Box
from tests.cli.running import keys, phosphene

PAPERS = ("deep_inside", "minds_eye", "report", "sci", "slides")


def test_every_paper_has_its_figures() -> None:
    assert papers() == PAPERS
    numbers = {paper: [figure.number for figure in figures(paper)] for paper in PAPERS}
    assert numbers["sci"] == ["1", "2", "3", "4", "5"]
    assert numbers["minds_eye"] == ["1", "2", "3", "4"]
    assert numbers["deep_inside"] == ["1", "2", "3", "section-4"]
    assert numbers["report"] == ["1", "2", "3", "4", "5", "6", "7", "8", "pooling"]
    assert len(figures()) == sum(map(len, numbers.values()))
    for figure in figures():
        assert figure.claim
        assert figure.title
        assert figure.command
    with pytest.raises(NotFoundError, match="did you mean 'report'"):
        figures("reports")


def test_a_verdict_is_what_the_checks_say() -> None:
    picture = Image.new("RGB", (1, 1))
    for checks, verdict in (
        ({"a": True, "b": True}, "claim reproduced"),
        ({"a": True, "b": False}, "in part"),
        ({"a": False}, "not reproduced"),
    ):
        assert Drawn(picture, checks, {}).verdict == verdict


def material(tmp_path: Path) -> Material:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return Material(prepare(Classifier(net, Preprocess((16, 16)), ["a", "b"])), scratch=tmp_path)


def test_what_was_not_given_is_named(tmp_path: Path) -> None:
    poor = material(tmp_path)
    for need, option in (
        (poor.need_pooling, "--pooling-model"),
        (poor.need_head, "--class-folders"),
        (poor.need_truths, "--boxes"),
    ):
        with pytest.raises(LeftOutError, match=option):
            need()
    assert issubclass(LeftOutError, OptionError)


def test_pictures_are_cut_out_of_photographs_the_same_way_each_time(tmp_path: Path) -> None:
    first, again = material(tmp_path / "a"), material(tmp_path / "b")
    for place in (first, again):
        place.scratch.mkdir()
    one, other = first.kinds(), again.kinds()
    assert len(one) == 36
    for mine, theirs in zip(one, other, strict=True):
        with Image.open(mine) as picture, Image.open(theirs) as same:
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(same))


def test_a_low_pass_leaves_as_much_variation_as_is_wanted() -> None:
    image = torch.rand(3, 32, 32)
    wanted = 0.2 * float(_variation(image[None]))
    assert float(_variation(_smoothed_alike(image, wanted)[None])) == pytest.approx(wanted, rel=0.02)
    values = image.tolist()
    literal = 0.0
    for channel in values:
        literal += sum(abs(channel[y + 1][x] - channel[y][x]) for y in range(31) for x in range(32))
        literal += sum(abs(channel[y][x + 1] - channel[y][x]) for y in range(32) for x in range(31))
    assert float(_variation(image[None])) == pytest.approx(literal / (3 * 31 * 32), rel=1e-4)


def test_instances_are_found_by_their_peaks() -> None:
    picture, boxes = _copies(Image.new("RGB", (50, 50), "red"), 3, (0, 0, 0))
    red = torch.from_numpy(np.asarray(picture)[..., 0].astype(np.float32))
    assert instance_peaks(red, boxes) == [1.0, 1.0, 1.0]
    assert float(red.mean()) == pytest.approx(255 * 3 / 4)
    red[: picture.height // 2] *= 0.3  # two of the three copies lie in the upper half
    assert instances_found(red, boxes) == pytest.approx(1 / 3)
    assert instances_found(-red, boxes) == 0
    assert instance_peaks(red, [Box(-5, -5, 1000, 1000)]) == [1.0]
    with pytest.raises(OptionError, match="no instances"):
        instances_found(red, [])


def test_the_map_of_quarters_gives_the_score_of_its_head() -> None:
    features, weights = torch.rand(3, 4, 4), torch.randn(12)
    quarters = features.reshape(3, 2, 2, 2, 2).mean(dim=(2, 4)).flatten()
    assert float(_pooled_map(features, weights, "quarters").sum() / 4) == pytest.approx(
        float(quarters @ weights), rel=1e-4
    )
    plain = _pooled_map(features, weights[:3], "average")
    assert float(plain.mean()) == pytest.approx(float(features.mean(dim=(1, 2)) @ weights[:3]), rel=1e-4)


def test_figures_of_a_paper_are_written_with_what_holds(tmp_path: Path) -> None:
    outcome = phosphene("figures", "slides", "--quick", "--out", tmp_path / "run", "--json")
    assert outcome.code == 0
    answer = outcome.json
    keys(answer, ["run", "index", "figures_json", "figures"])
    assert [row["number"] for row in answer["figures"]] == ["limousine", "posterior", "taylor"]
    for row in answer["figures"]:
        keys(row, ["paper", "number", "title", "claim", "command", "status", "verdict", "checks", "facts", "picture"])
        assert row["status"] == "ok"
        assert row["verdict"] == Drawn(Image.new("RGB", (1, 1)), row["checks"], {}).verdict
        with Image.open(row["picture"]) as picture:
            picture.load()
    page = Path(answer["index"]).read_text(encoding="utf-8")
    assert all(f'src="{Path(row["picture"]).name}"' in page for row in answer["figures"])
    written = json.loads(Path(answer["figures_json"]).read_text(encoding="utf-8"))
    assert [row["verdict"] for row in written["figures"]] == [row["verdict"] for row in answer["figures"]]
    unknown = phosphene("figures", "reports", "--out", tmp_path / "other")
    assert unknown.code == 2
    assert "did you mean 'report'" in unknown.err


def test_a_figure_that_lacks_something_is_left_out_and_the_others_are_made(tmp_path: Path) -> None:
    lacking = [figure for figure in figures("deep_inside") if figure.number == "section-4"]
    (poor,) = lacking
    with pytest.raises(LeftOutError, match="--pooling-model"):
        poor.draw(material(tmp_path))
