"""Randomization on a tiny network: the stages found, what changes and what does not, and what is said of it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from phosphene import Classifier, Preprocess, prepare, register_attribution
from phosphene.attribution.result import attribution
from phosphene.cli import app
from phosphene.errors import InputError, OptionError
from phosphene.evaluation.sanity import (
    Likeness,
    Sanity,
    SanityChecks,
    Stage,
    initialized_stages,
    randomized,
    sanity,
    stages,
)
from phosphene.images import read_image
from phosphene.registry import unregister


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


class Network(nn.Module):
    """Declared upside down, so that the order has to come from running it; one parameter belongs to no module."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.norm = nn.BatchNorm2d(4)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
        self.gain = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x):
        x = self.blocks(self.norm(self.stem(x)))
        return self.fc(x.mean((2, 3))) * self.gain[0]


def classifier():
    return prepare(Classifier(Network().eval(), Preprocess((16, 16))))


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    return sorted(tmp_path.iterdir())


@pytest.fixture
def model_blind():
    """A method that never looks at the network: the brightness of the picture."""

    @register_attribution(title="Brightness", family="gradient", paper="none")
    def brightness(classifier, images, target):
        return attribution(images.mean(dim=1), images, target, torch.ones(len(images)))

    yield "brightness"
    unregister("attribution", "brightness")


def test_stages_come_from_the_head_down_with_norms_beside_their_layers():
    found = stages(classifier())
    assert [stage.name for stage in found] == ["fc", "blocks.1", "blocks.0", "stem.0", "other"]
    assert found[3].parameters == ("stem.0.weight", "stem.0.bias", "norm.weight", "norm.bias")
    assert found[4].parameters == ("gain",)
    names = [name for stage in found for name in stage.parameters]
    assert sorted(names) == sorted(name for name, _ in Network().named_parameters())


def test_every_layer_of_a_plain_network_is_a_stage():
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), nn.Flatten(), nn.Linear(576, 2)
    )
    assert [stage.name for stage in stages(Classifier(net, Preprocess((16, 16))))] == ["2", "0.2", "0.0"]


def test_a_network_without_parameters_is_refused():
    with pytest.raises(OptionError, match="no parameters"):
        stages(Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), Preprocess((16, 16))))


def test_only_the_chosen_stage_changes_and_the_same_way_in_any_company():
    source = classifier()
    parts = stages(source)
    intact = dict(source.source.module.named_parameters())
    alone = dict(randomized(source, parts[1:2], seed=3).module.named_parameters())
    joined = dict(randomized(source, parts[:2], seed=3).module.named_parameters())
    for name, tensor in intact.items():
        assert torch.equal(alone[name], tensor) != (name in parts[1].parameters and tensor.std(correction=0) > 0)
        if name in parts[1].parameters:
            assert torch.equal(alone[name], joined[name])
    other = dict(randomized(source, parts[1:2], seed=4).module.named_parameters())
    assert not torch.equal(other["blocks.1.conv.weight"], alone["blocks.1.conv.weight"])


def test_random_weights_have_the_mean_and_spread_of_those_they_replace():
    net = nn.Sequential(nn.Conv2d(3, 64, 7), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        net[0].weight.mul_(3).add_(0.5)
    source = Classifier(net, Preprocess((16, 16)))
    new = randomized(source, stages(source), seed=0).module[0].weight
    assert new.mean().item() == pytest.approx(net[0].weight.mean().item(), abs=0.01)
    assert new.std().item() == pytest.approx(net[0].weight.std().item(), rel=0.05)


def test_a_method_that_ignores_the_network_is_found_out(pictures, model_blind):
    found = sanity(classifier(), pictures, [model_blind, "input_x_gradient"])
    blind, gradient = found.methods
    for stages_of_mode in blind.stages.values():
        for likeness in stages_of_mode.values():
            assert likeness.row() == {
                "spearman": pytest.approx(1),
                "spearman_abs": pytest.approx(1),
                "ssim": pytest.approx(1),
                "pairs": 3,
                "dead": 0,
            }
    assert blind.verdict.startswith("does not notice random weights: rank correlation with the true map 1.00, 1.00 and")
    assert gradient.left(1) < 0.6
    assert found.images == 3
    # Maps of different pictures are unrelated: random pixels.
    assert abs(blind.chance.row()["spearman"]) < 0.2
    assert len(blind.examples) == 1 + len(found.stages)


def test_cascading_and_independent_agree_on_the_head(pictures):
    found = sanity(classifier(), pictures, ["saliency"], seed=1).methods[0]
    assert found.stages["cascading"]["fc"].spearman == found.stages["independent"]["fc"].spearman
    assert found.stages["cascading"]["blocks.0"].spearman != found.stages["independent"]["blocks.0"].spearman


def test_the_network_is_as_it_was(pictures):
    source = classifier()
    before = {name: value.clone() for name, value in source.source.module.state_dict().items()}
    sanity(source, pictures, ["saliency"], modes=["cascading"])
    assert all(torch.equal(before[name], value) for name, value in source.source.module.state_dict().items())


def test_a_method_that_cannot_explain_the_network_fails_alone(pictures):
    token = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    found = sanity(prepare(Classifier(token, Preprocess((16, 16)))), pictures, ["cam", "saliency"], modes=["cascading"])
    assert "class activation map" in found.methods[0].error
    assert found.methods[0].verdict is None
    assert found.methods[1].error is None


def test_verdicts_follow_the_figures():
    def words(*values):
        steps = {str(index): Likeness([value], [value / 2], [1.0]) for index, value in enumerate(values)}
        return Sanity("x", {"cascading": steps}).verdict

    assert words(0.5, 0.1, 0.1).startswith("notices random weights:")
    assert words(1.0, 0.9, 0.9, 0.1).startswith("does not notice that half of the network is random:")
    assert words(1.0, 0.4, 0.4).startswith("notices random weights in part:")
    assert words(0.9, -0.9, -0.9).startswith("does not notice random weights:")
    steps = {"head": Likeness([0.1], [0.1], [1.0])}
    same = Sanity("x", {"cascading": steps}, chance=Likeness([1.0], [1.0], [1.0]))
    assert same.verdict.startswith("gives different pictures much the same map:")
    # As much as maps of different pictures share is nothing that is left.
    left = {"head": Likeness([0.41], [0.41], [1.0])}
    chance = Sanity("x", {"cascading": left}, chance=Likeness([0.4], [0.4], [1.0]))
    assert chance.verdict.startswith("notices random weights:")
    assert chance.verdict.endswith(
        "(of signed values or of magnitudes, the larger); maps of different pictures share 0.40"
    )
    more = Sanity("x", {"cascading": left}, chance=Likeness([0.2], [0.2], [1.0]))
    assert more.verdict.startswith("notices random weights in part:")
    assert Sanity("x", {"independent": {}}).verdict is None
    assert Sanity("x", {"cascading": {"a": Likeness(dead=3)}}).verdict is None


def test_options_that_make_no_sense_are_named(pictures):
    with pytest.raises(OptionError, match="choose from cascading, independent"):
        sanity(classifier(), pictures, ["saliency"], modes=["upwards"])
    with pytest.raises(OptionError, match="given twice"):
        sanity(classifier(), pictures, ["saliency", "saliency:crops=1"])
    with pytest.raises(OptionError, match="no method"):
        sanity(classifier(), pictures, [])


def test_nothing_to_measure_is_an_error(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="no picture could be read"):
        sanity(classifier(), [tmp_path / "broken.png"], ["saliency"])


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "tiny_model.py").write_text(
        "import torch\nfrom tests.evaluation.test_sanity import Network\nfrom phosphene import Classifier, Preprocess\n"
        "def make():\n    torch.manual_seed(0)\n    return Classifier(Network().eval(), Preprocess((16, 16)))\n"
    )
    return f"{tmp_path / 'tiny_model.py'}:make"


def test_the_command_says_it_all(pictures, factory, tmp_path):
    folder = pictures[0].parent
    (folder / "broken.jpg").write_bytes(b"no picture")
    arguments = [
        "evaluate",
        "sanity",
        "--images",
        str(folder),
        "--method",
        "saliency",
        "--method",
        "rise",
        "--masks",
        "20",
    ]
    result = CliRunner().invoke(app, [*arguments, "--model", factory, "--out", str(tmp_path / "run"), "--json"])
    answer = json.loads(result.stdout)
    assert result.exit_code == 1  # the broken picture
    assert [row["method"] for row in answer["rows"]] == ["saliency", "rise:masks=20"]
    assert answer["stages"] == ["fc", "blocks.1", "blocks.0", "stem.0", "other"]
    assert answer["images"] == 3
    for row in answer["rows"]:
        assert [stage["stage"] for stage in row["modes"]["independent"]] == answer["stages"]
        assert row["verdict"]
        assert row["seconds_per_image"] > 0
    assert "broken.jpg" in answer["errors"][0]["error"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert report.count("data:image/png") == 2
    assert report.count("data:image/jpeg") == 2


def test_mprt_initializes_every_module_from_the_last_declared_on(pictures):
    network = classifier()
    found = sanity(network, pictures, ["saliency"], protocol="mprt")
    names = [stage.name for stage in found.stages]
    assert names == ["stem.0", "norm", "blocks.1.norm", "blocks.1.conv", "blocks.0.norm", "blocks.0.conv", "fc"]
    left = [found.methods[0].stages["cascading"][name].spearman_abs for name in names]
    assert all(len(values) == 3 for values in left)
    assert min(left[0]) < 0.999
    before = torch.get_rng_state()
    again = sanity(network, pictures, ["saliency"], protocol="mprt").methods[0]
    assert [again.stages["cascading"][name].spearman_abs for name in names] == left
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(OptionError, match="no module that can be initialized anew"):
        initialized_stages(Classifier(nn.Sequential(nn.Flatten(), nn.ReLU())))


def test_mprt_has_the_figures_of_quantus(pictures):
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed", exc_type=ImportError)
    network = classifier()
    seen = [read_image(path) for path in pictures]
    images = network.preprocessed(seen, network.views(seen))
    best = network.logits(images).argmax(dim=1)

    def saliency(model, inputs, targets, **_):
        leaf = torch.as_tensor(inputs).requires_grad_()
        scores = model(leaf).gather(1, torch.as_tensor(targets)[:, None])
        (gradient,) = torch.autograd.grad(scores.sum(), leaf)
        return gradient.abs().amax(dim=1, keepdim=True).numpy()

    theirs = quantus.MPRT(
        layer_order="top_down", seed=0, display_progressbar=False, disable_warnings=True
    )(
        model=network.source.module, x_batch=images.numpy(), y_batch=best.numpy(),
        a_batch=saliency(network.source.module, images.numpy(), best.numpy()), explain_func=saliency,
    )  # fmt: skip
    ours = sanity(network, pictures, ["saliency"], modes=["cascading"], protocol="mprt").methods[0]
    for name, likeness in ours.stages["cascading"].items():
        assert likeness.spearman_abs == pytest.approx(theirs[name], abs=2e-3), name


def test_the_chart_draws_what_the_verdict_says(monkeypatch):
    drawn = {}
    monkeypatch.setattr("phosphene.evaluation.sanity.line_chart", lambda lines, **_how: drawn.update(lines))
    steps = {"head": Likeness([-0.7], [0.1], [1.0]), "stem": Likeness([0.1], [0.4], [1.0])}
    one = Sanity("x", {"cascading": steps})
    SanityChecks((one,), (Stage("head", ()), Stage("stem", ())), 1, torch.zeros(3, 2, 2), ()).chart("cascading")
    assert drawn["x"] == [1.0, one.left(0), one.left(1)] == [1.0, 0.7, 0.4]
