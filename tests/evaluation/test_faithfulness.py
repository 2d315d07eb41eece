"""Faithfulness over files against the metrics called by hand, and the command around it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from phosphene import Classifier, Preprocess, Target, prepare
from phosphene.cli import app
from phosphene.errors import InputError, OptionError
from phosphene.evaluation.faithfulness import CURVE_POINTS, center_bump, faithfulness, probability_of
from phosphene.evaluation.heat import affordable, heat_of
from phosphene.images import read_image
from phosphene.metrics.pixel_flipping import pixel_flipping
from phosphene.metrics.road import road
from phosphene.registry import parse_spec
from phosphene.runs.samples import chosen_files
from tests.oracles import metrics as oracle


def classifier(size=12, short_side=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(6, 4))  # fmt: skip
    return prepare(Classifier(net.eval(), Preprocess((size, size), short_side, (0.5,) * 3, (0.25,) * 3)))


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize(("protocol", "step"), [("rise", 12), ("coarse", 5)])
def test_areas_equal_the_slow_loop_on_the_users_own_module(pictures, protocol, step):
    network = classifier()
    found = faithfulness(network, pictures, ["input_x_gradient"], protocol=protocol).methods[0]
    module = network.source.module
    for index, path in enumerate(pictures):
        image = network.preprocessed([read_image(path)], network.views([read_image(path)]))
        clean = module((image - 0.5) / 0.25).softmax(1)[0]
        best = int(clean.argmax())
        shown = image[0].clone().requires_grad_()
        module((shown[None] - 0.5) / 0.25)[0, best].backward()
        heat = (shown.grad * image[0]).sum(0)

        def score(picture, best=best):
            logits = module((torch.as_tensor(picture)[None] - 0.5) / 0.25)
            return float(logits.detach().softmax(1)[0, best])

        blank = np.full((3, 12, 12), 0.5, dtype=np.float32)
        values, area = oracle.pixel_curve(image[0].numpy(), blank, heat.numpy(), score, step)
        assert found.deletion[index] == pytest.approx(area, abs=1e-5)
        assert found.clean[index] == pytest.approx(values[0], abs=1e-6)


def test_a_class_may_be_chosen_and_rows_are_means(pictures):
    found = faithfulness(classifier(), pictures, ["grad_cam", "saliency"], target=2)
    for one in (*found.methods, *found.baselines):
        row = one.row()
        assert row["deletion"] == pytest.approx(np.mean(one.deletion))
        assert row["deletion_ci"][0] <= row["deletion"] <= row["deletion_ci"][1]
        assert row["average_drop"] == pytest.approx(oracle.average_drop(one.clean, one.explained), abs=1e-6)
        assert {name: len(values) for name, values in one.curves.items()} == dict.fromkeys(
            ("deletion", "insertion"), CURVE_POINTS
        )
    network = classifier()
    image = network.preprocessed([read_image(pictures[0])], network.views([read_image(pictures[0])]))
    assert found.methods[0].clean[0] == pytest.approx(float(network.logits(image).softmax(1)[0, 2]), abs=1e-6)
    assert [one.method for one in found.baselines] == ["center", "random"]


def test_empty_maps_are_counted_and_left_out(pictures):
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.zeros_(net[0].weight)
    found = faithfulness(prepare(Classifier(net, Preprocess((12, 12)))), pictures, ["saliency"])
    assert found.methods[0].dead == 3
    assert found.methods[0].row() == {"method": "saliency", "images": 0, "dead": 3, "error": None}


def test_a_method_that_cannot_explain_the_network_fails_alone(pictures):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(432, 5))
    found = faithfulness(prepare(Classifier(flat, Preprocess((12, 12)))), pictures, ["cam", "saliency"])
    assert "class activation map" in found.methods[0].row()["error"]
    assert found.methods[1].row()["images"] == 3


def test_maps_made_through_a_larger_view_are_read_where_the_network_looks(tmp_path):
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    network = classifier(size=12, short_side=16)
    picture = read_image(tmp_path / "a.png")
    views = network.views([picture])
    heat = heat_of(network, [picture], views, Target.of(0), parse_spec("saliency:crops=10"))
    assert heat.attribution.maps.shape == (1, 16, 16)
    assert heat.pixels.shape == (1, 12, 12)
    assert torch.allclose(heat.pixels, heat.attribution.maps[:, 2:14, 2:14], atol=1e-6)


def test_the_center_map_is_highest_in_the_middle():
    bump = center_bump((9, 13))
    assert bump.argmax() == 4 * 13 + 6
    assert torch.allclose(bump, bump.flip(0, 1))


def test_masks_go_to_the_methods_that_draw_them():
    specs = affordable(["rise", "saliency", "rise:masks=7,cells=5"], 30)
    assert [str(spec) for spec in specs] == ["rise:masks=30", "saliency", "rise:masks=7,cells=5"]


def test_files_are_taken_evenly(tmp_path):
    for index in range(10):
        (tmp_path / f"{index}.png").touch()
    names = lambda limit: [path.stem for path in chosen_files([str(tmp_path)], limit)]  # noqa: E731
    assert names(4) == ["0", "3", "6", "9"]
    assert len(names(0)) == len(names(99)) == 10
    with pytest.raises(OptionError, match="--limit -1"):
        names(-1)


def test_arrays_are_named_by_a_pattern_as_elsewhere(tmp_path):
    for name in ("a.npy", "b.npy", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in chosen_files([str(tmp_path / "*.npy")], 0)] == ["a.npy", "b.npy"]
    with pytest.raises(InputError, match=r"\*\.tif: no picture fits this pattern"):
        chosen_files([str(tmp_path / "*.tif")], 0)


def test_tables_and_lists_name_pictures_as_elsewhere(tmp_path):
    (tmp_path / "labels.csv").write_text("file,diagnosis\nscans/a.png,tumor\nscans/b.png,healthy\n")
    (tmp_path / "list.txt").write_text("scans/a.png\n")
    (tmp_path / "scans").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "scans" / name).touch()
    assert [path.name for path in chosen_files([str(tmp_path / "labels.csv")], 0)] == ["a.png", "b.png"]
    assert [path.name for path in chosen_files([str(tmp_path / "list.txt")], 0)] == ["a.png"]


def test_nothing_to_measure_is_an_error_that_says_why(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no picture could be read; the first: .*broken\.png: not an image"):
        faithfulness(classifier(), [tmp_path / "broken.png"], ["saliency"])


def test_the_command_prints_a_table_and_writes_a_report(pictures, tmp_path):
    code = "from tests.evaluation.test_faithfulness import classifier\ndef make():\n    return classifier().source\n"
    (tmp_path / "tiny.py").write_text(code)
    arguments = [
        "evaluate",
        "faithfulness",
        "--images",
        str(pictures[0].parent),
        "--model",
        f"{tmp_path / 'tiny.py'}:make",
    ]
    arguments += ["--method", "grad_cam", "--method", "rise", "--masks", "10", "--protocol", "rise", "--limit", "2"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["images"] == 2
    assert [row["method"] for row in answer["rows"]] == ["grad_cam", "rise:masks=10"]
    assert set(answer["baselines"]) == {"center", "random"}
    for row in (*answer["rows"], *answer["baselines"].values()):
        assert 0 <= row["deletion"] <= 1
        assert 0 <= row["insertion"] <= 1
    report = (tmp_path / "run" / "report.html").read_text()
    assert report.count("data:image/png") == 2
    shown = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run2")]).stdout
    assert "random" in shown


def test_further_measures_are_the_metrics_called_by_hand(pictures):
    network = classifier()
    found = faithfulness(network, pictures, ["input_x_gradient"], measures=["road", "pixel_flipping"], seed=3)
    for one in (*found.methods, *found.baselines):
        row = one.row()
        assert row["road"] == pytest.approx((row["road_least"] - row["road_most"]) / 2, abs=1e-6)
        assert row["aopc_ci"][0] <= row["aopc"] <= row["aopc_ci"][1]
    image = network.preprocessed([read_image(pictures[1])], network.views([read_image(pictures[1])]))
    target = Target.of(int(network.logits(image).argmax()))
    spec = parse_spec("input_x_gradient")
    heat = heat_of(network, [read_image(pictures[1])], network.views([read_image(pictures[1])]), target, spec).pixels[0]
    score = probability_of(network, target)
    by_hand = road(image[0], heat, score, generator=torch.Generator().manual_seed(3))
    assert found.methods[0].further["road"][1] == pytest.approx(by_hand.difference, abs=1e-6)
    flipped = pixel_flipping(image[0], heat, score, generator=torch.Generator().manual_seed(3))
    assert found.methods[0].further["aopc"][1] == pytest.approx(flipped.aopc, abs=1e-6)
    assert not faithfulness(network, pictures, ["input_x_gradient"]).methods[0].further
    with pytest.raises(OptionError, match="choose from road, pixel_flipping"):
        faithfulness(network, pictures, ["input_x_gradient"], measures=["roads"])


def test_the_command_prints_and_reports_further_measures(pictures, tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(FACTORY)
    arguments = ["evaluate", "faithfulness", "--images", str(pictures[0]), "--method", "saliency", "--model",
                 f"{tmp_path / 'net.py'}:make", "--measure", "road", "--measure", "pixel_flipping",
                 "--out", str(tmp_path / "run")]  # fmt: skip
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "road_most  road_least        road        aopc" in outcome.output
    assert "pixel flipping, AOPC" in (tmp_path / "run" / "report.html").read_text("utf-8")


FACTORY = """
import torch, phosphene
def make():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 6, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return phosphene.Classifier(torch.nn.Sequential(*layers, torch.nn.Linear(6, 4)), phosphene.Preprocess((12, 12)))
"""
