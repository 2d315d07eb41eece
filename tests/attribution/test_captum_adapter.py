"""captum's methods through our door: what captum itself says, or a refusal where captum would be silently wrong."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from phosphene.attribution.guided_grad_cam import guided_grad_cam
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, NotFoundError, OptionError
from phosphene.registry import entries, format_spec, parse_spec
from phosphene.targets import Target, Unit
from phosphene.tasks.attributions import attribute
from tests.comparing import map_error
from tests.networks import class_convolution, classifier_of, functional_relu, pooled

captum = pytest.importorskip("captum.attr")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def plain() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)),
    ).eval()


DIRECT = {
    "deep_lift:baseline=black": lambda net, x: captum.DeepLift(net).attribute(x, x * 0, target=1).sum(1),
    "deep_lift:baseline=white": lambda net, x: captum.DeepLift(net).attribute(x, x * 0 + 1, target=1).sum(1),
    "deep_lift_shap": lambda net, x: torch.cat(
        [captum.DeepLiftShap(net).attribute(row[None], three(row[None]), target=1).sum(1) for row in x]
    ),
    "feature_ablation:cells=4,baseline=black": lambda net, x: (
        captum.FeatureAblation(net).attribute(x, x * 0, target=1, feature_mask=blocks())[:, 0].detach()[:, 1::4, 2::4]
    ),
    "layer_conductance:layer=1,steps=7,baseline=black": lambda net, x: (
        captum.LayerConductance(net, net[1]).attribute(x, x * 0, target=1, n_steps=7).sum(1)
    ),
    "internal_influence:layer=3,steps=7,baseline=black": lambda net, x: (
        captum.InternalInfluence(net, net[3]).attribute(x, x * 0, target=1, n_steps=7).sum(1)
    ),
}


def three(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x * 0, x * 0 + 0.0, x * 0 + 1])


def blocks() -> torch.Tensor:
    return torch.arange(16).view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)[None, None]


@pytest.mark.parametrize("spec", DIRECT)
def test_is_what_captum_says(spec: str) -> None:
    images = torch.rand(2, 3, 16, 16)
    got = attribute(Classifier(plain()), images, Target.of(1), f"captum:{spec}")
    expected = DIRECT[spec](plain(), images.clone().requires_grad_()).detach()
    assert map_error(got.maps, expected) < 1e-5
    assert got.spec == format_spec(parse_spec(f"captum:{spec}"))


def test_lrp_is_what_captum_says_where_only_flatten_has_no_rule() -> None:
    net, images = plain(), torch.rand(2, 3, 16, 16)

    class Flattening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = net[:6], net[7]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.flatten(self.body(x), 1))

    expected = captum.LRP(Flattening()).attribute(images.clone().requires_grad_(), target=1).sum(1).detach()
    got = attribute(Classifier(plain()), images, Target.of(1), "captum:lrp")
    assert map_error(got.maps, expected) < 1e-5


@pytest.mark.parametrize("name", ["shapley_value_sampling", "kernel_shap", "lime", "gradient_shap"])
def test_random_methods_are_seeded_for_each_image(name: str) -> None:
    classifier, images = classifier_of(pooled()), torch.rand(2, 3, 16, 16)
    spec = f"captum:{name}:samples=12" if name == "gradient_shap" else f"captum:{name}:samples=12,cells=3"
    torch.manual_seed(9)
    np.random.seed(9)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    one = attribute(classifier, images, Target.of(1), spec, seed=4)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    alone = attribute(classifier, images[1:], Target.of(1), spec, seed=4)
    assert map_error(alone.maps, one.maps[1:]) < 1e-4
    assert not torch.equal(one.maps, attribute(classifier, images, Target.of(1), spec, seed=5).maps)


def test_shapley_values_add_up() -> None:
    classifier, images = classifier_of(pooled()), torch.rand(1, 3, 16, 16)
    got = attribute(classifier, images, Target.of(1), "captum:shapley_value_sampling:samples=2,cells=3")
    whole = attribute(classifier, classifier.mean_image.expand(1, 3, 16, 16), Target.of(1), "saliency")
    assert float(got.maps.sum()) == pytest.approx(float(got.score - whole.score), abs=1e-4)


@pytest.mark.parametrize("name", ["deep_lift", "deep_lift_shap"])
@pytest.mark.parametrize("network", ["functional", "class_convolution", "relu6", "gate", "probability"])
def test_what_deep_lift_would_misread_is_refused(name: str, network: str) -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(3, 3, 1), nn.Sigmoid()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return (x * self.gate(x.mean((2, 3), keepdim=True))).mean((2, 3))

    make = {
        "functional": functional_relu,
        "class_convolution": class_convolution,
        "relu6": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "gate": Gate,
        "probability": pooled,
    }[network]
    target = Target.of(1, score="probability" if network == "probability" else None)
    with pytest.raises(ModelError, match=r"would misread|cannot explain"):
        attribute(classifier_of(make()), torch.rand(1, 3, 16, 16), target, f"captum:{name}")


def test_lrp_refuses_branches_and_unknown_layers() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.one(x)
            return (x + self.two(x)).mean((2, 3))

    images = torch.rand(1, 3, 16, 16)
    with pytest.raises(ModelError, match="no rule for branches"):
        attribute(classifier_of(Residual()), images, Target.of(1), "captum:lrp")
    gelu = nn.Sequential(nn.Conv2d(3, 2, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match=r"captum:lrp cannot explain Sequential: Module of type .*GELU"):
        attribute(classifier_of(gelu), images, Target.of(1), "captum:lrp")


def test_units_options_and_names() -> None:
    classifier, images = classifier_of(pooled()), torch.rand(1, 3, 16, 16)
    unit = Target(unit=Unit("4", 2, (1, 4)))
    deep = attribute(classifier, images, unit, "captum:deep_lift")
    assert deep.checks["completeness_error"][0] < 1e-4
    with pytest.raises(OptionError, match="cells=17"):
        attribute(classifier, images, Target.of(1), "captum:lime:cells=17")
    with pytest.raises(OptionError, match="one layer"):
        attribute(classifier, images, Target.of(1), "captum:layer_conductance:layer=1+4")
    with pytest.raises(NotFoundError, match="captum:deep_lift"):
        parse_spec("captum:deeplift")
    assert sum(name.startswith("captum:") for name in entries("attribution")) == 10


def test_captum_is_imported_when_used_and_may_be_missing() -> None:
    code = """
import importlib.util, sys
find = importlib.util.find_spec
for missing in (True, False):
    importlib.util.find_spec = lambda name, package=None: None if missing and name == "captum" else find(name, package)
    for name in [name for name in sys.modules if name.partition(".")[0] == "phosphene"]:
        del sys.modules[name]
    import phosphene.attribution
    from phosphene.registry import entries
    print("captum" in sys.modules, any(name.startswith("captum:") for name in entries("attribution")))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.split() == ["False", "False", "False", "True"], answer.stderr


def test_guided_grad_cam_equals_captum_where_captum_sees_every_relu() -> None:
    net, images = plain(), torch.rand(2, 3, 16, 16)
    expected = captum.GuidedGradCam(net, net[3]).attribute(
        images.clone().requires_grad_(), target=1, interpolate_mode="bilinear"
    )
    got = guided_grad_cam(Classifier(net), images, Target.of(1), layer="3")
    assert map_error(got.reconstruction, expected.detach()) < 1e-5
    assert torch.allclose(got.maps, got.reconstruction.sum(1))
