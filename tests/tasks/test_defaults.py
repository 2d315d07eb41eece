"""What is taken unless told otherwise, and what is said where that cannot work on a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phosphene import PhospheneWarning, Unit, explain, load_classifier, locate
from phosphene.attribution.layer_saliency import middle_layer
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError, NumericalError
from phosphene.runtime import prepare
from phosphene.tasks.attributions import says_nothing
from phosphene.tasks.objects import Evidence, configured, evidence
from tests.networks import classifier_of, pooled

CATS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


class ClassConvolution(nn.Module):
    """Ends as SqueezeNet does: features, dropout, a convolution for the classes, ReLU, mean over places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU())
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(12, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x)).flatten(1)


def linear_after_the_last_place() -> Classifier:
    """One convolution and a mean: the gradient of a class is the same at every place there is."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return Classifier(net, Preprocess((16, 16)))


def test_layer_saliency_looks_where_the_gradient_tells_places_apart():
    prepared = prepare(classifier_of(ClassConvolution(), (16, 16)))
    arguments = (prepared.layers, prepared.default_layer, (16, 16))
    assert middle_layer(*arguments) == "features.4"
    last = {"features.4", "classifier.0", "classifier.2"}
    assert prepared.looks.flat_layers(["features.2", "features.3", *sorted(last)]) == last
    chosen = middle_layer(*arguments, prepared.looks.flat_layers)
    assert chosen == "features.3"
    images = torch.rand(1, 3, 16, 16)
    found = explain(prepared, images, f"layer_saliency:layer={chosen}")
    assert says_nothing(found) is None
    flat = explain(prepared, images, "layer_saliency:layer=features.4").maps
    assert len(flat[flat > 0].round(decimals=6).unique()) == 1  # there or not there, and no more


def test_a_way_whose_maps_are_flat_gives_way_to_another_and_says_so():
    classifier, picture = linear_after_the_last_place(), torch.rand(3, 24, 24)
    with pytest.warns(PhospheneWarning, match="cam in the place of layer_saliency: the map is the same everywhere"):
        (found,) = locate(classifier, picture, target=1)
    assert found.methods == ("cam",)
    with pytest.raises(NumericalError, match="the map is the same everywhere"):  # what was asked for is not replaced
        locate(classifier, picture, target=1, method="layer_saliency")
    hill = torch.linspace(0, 1, 100).reshape(10, 10).numpy()
    assert Evidence(hill, None).says_nothing is None
    assert Evidence(0.6 + 0.4 * hill, None).says_nothing == "its map is as high nearly everywhere"


def test_a_way_that_does_not_run_gives_way_and_what_was_asked_for_is_refused():
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), Preprocess((16, 16)))
    pictures = [torch.rand(3, 20, 20)]
    (found,) = evidence(prepare(flat), pictures, [2], configured("best"))
    assert found.way is not None
    assert found.way.methods == ("saliency",)
    assert found.note is not None
    assert "has an output with places" in found.note
    with pytest.raises(ModelError, match="has an output with places"):
        evidence(prepare(flat), pictures, [2], configured("best", "layer_saliency"))


def test_explain_without_a_method_takes_what_works():
    usual = explain(classifier_of(pooled()), CATS)
    assert (usual.spec, usual.notes) == ("grad_cam", ())
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), Preprocess((16, 16)))
    with pytest.warns(PhospheneWarning, match="saliency in the place of grad_cam: no layer of"):
        found = explain(flat, CATS)
    assert found.spec == "saliency"
    assert found.notes[0].startswith("saliency in the place of grad_cam")
    with pytest.raises(ModelError):
        explain(flat, CATS, "grad_cam")


def test_results_know_what_they_explain():
    classifier = classifier_of(pooled())
    found = explain(classifier, CATS, "saliency", target=[1, 2])
    expected = classifier.probabilities(prepare(classifier).logits(CATS)).gather(1, torch.tensor([[1], [2]]))
    assert [one.index for one in found.explained] == [1, 2]
    assert [one.probability for one in found.explained] == pytest.approx(expected[:, 0].tolist(), abs=1e-6)
    assert found[1:].explained == found.explained[1:]
    assert explain(classifier, CATS, "saliency", target=Unit("0", 1)).explained == ()


@pytest.mark.parametrize(
    ("unit", "layer"),
    [
        (Unit("features.3", 3), "features.2"),
        (Unit("features.0", 1), "features.0"),
        (Unit("classifier", 4), "features"),
    ],
)
def test_a_unit_is_looked_for_in_the_layer_before_it(unit, layer):
    classifier = classifier_of(ClassConvolution(), (16, 16))
    for method in ("grad_cam", "layer_cam", "layer_saliency", "score_cam"):
        found = explain(classifier, CATS[:1], method, target=unit)
        assert (found.layer, found.problems) == (layer, (None,)), method


def test_a_bare_network_is_taken_with_what_is_assumed_said():
    with pytest.warns(
        PhospheneWarning, match=r"Sequential does not say how .* make it Classifier\(network, Preprocess"
    ) as told:
        found = explain(pooled(), CATS, "saliency", target=1)
    assert told[0].filename == __file__  # what a notebook shows is the user's own line
    assert found.maps.shape == (2, 16, 16)
    with pytest.warns(PhospheneWarning, match="does not say how"):
        classifier = load_classifier(pooled())
    assert torch.allclose(found.maps, explain(classifier, CATS, "saliency", target=1).maps)
