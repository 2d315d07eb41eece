"""The Mind's Eye on tiny networks: it reaches its targets, keeps facets apart, and does what its presets say."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tests import networks
from tests.oracles import features as oracle
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, OptionError
from phosphene.graph import layer_before
from phosphene.images import to_tensor
from phosphene.runtime import activations, prepare
from phosphene.synthesis.ascent import Step
from phosphene.synthesis.recipes.minds_eye import Exemplars, MindsEyeOptions, denoised, minds_eye
from phosphene.synthesis.schedules import linear
from phosphene.synthesis.staged import draw
from phosphene.synthesis.streams import Streams

LAYER, BEFORE = "4", "3"


def classifier() -> Classifier:
    return networks.classifier_of(networks.pooled())


def exemplars(facets: int = 2, layer: str = LAYER, previous: str | None = BEFORE) -> Exemplars:
    generator = torch.Generator().manual_seed(2)
    colors = torch.rand(facets, 3, 1, 1, generator=generator)
    images = [(color + 0.15 * torch.randn(4, 3, 16, 16, generator=generator)).clamp(0, 1) for color in colors]
    return Exemplars(layer, tuple(images), (torch.tensor([0.4, 0.3, 0.2, 0.1]),) * facets, previous)


def run(given: Exemplars, **options: Any) -> list[Step]:
    streams = Streams.of(0, [f"facet {index}" for index in range(len(given.images))])
    return list(minds_eye(classifier(), given, streams, MindsEyeOptions.of(**{"steps": 40, "top_k": 3, **options})))


def cosine(images: Tensor, given: Exemplars) -> Tensor:
    _, found = activations(classifier(), images, [given.layer])
    values = found[given.layer]
    pooled = values.flatten(2).mean(dim=2) if values.ndim > 2 else values
    return torch.cosine_similarity(pooled, given.targets(classifier())[given.layer][..., 0], dim=1)


def test_start_and_targets_are_weighted_sums() -> None:
    given = exemplars()
    _, found = activations(classifier(), given.images[1], [LAYER])
    weights = given.weights[1].tolist()
    torch.testing.assert_close(given.start()[1].double(), oracle.weighted_sum(list(given.images[1]), weights))
    maps = given.targets(classifier(), maps=True)
    expected = oracle.weighted_sum(list(found[LAYER].flatten(2)), weights)
    torch.testing.assert_close(maps[LAYER][1].double(), expected, rtol=1e-5, atol=1e-5)
    assert maps[BEFORE].shape[2] == 1  # the layer before is compared pooled


def test_it_comes_to_the_target_from_another_image() -> None:
    given = exemplars()
    steps = run(given, start="mean")
    assert bool((cosine(steps[0].images, given) < cosine(steps[-1].images, given)).all())
    assert bool((cosine(steps[-1].images, given) > 0.97).all())
    assert bool((steps[-1].extras["mismatch"] < 0.3 * steps[0].extras["mismatch"]).all())


@pytest.mark.parametrize("options", [{"terms": "dot"}, {"terms": "distance"}, {"maps": True}, {"per": "channel"}])
def test_every_arm_gains_on_its_own_term(options: dict[str, Any]) -> None:
    steps = run(exemplars(), start="mean", settle=1.0, **options)
    name, sign = ("dot", 1) if options.get("terms") == "dot" else ("mismatch", -1)
    gain = sign * (steps[-1].extras[name] - steps[0].extras[name])
    assert bool((gain > 0).all())
    if "terms" in options:
        assert bool((steps[-1].extras["previous"] == 0).all())


def test_facets_in_one_batch_do_not_see_each_other() -> None:
    both = exemplars()
    together = run(both, steps=6)[-1].images
    second = Exemplars(both.layer, both.images[1:], both.weights[1:], both.previous)
    alone = list(minds_eye(classifier(), second, Streams.of(0, ["facet 1"]), MindsEyeOptions(steps=6, top_k=3)))[
        -1
    ].images
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["conv", "tokens", "vector"])
def test_layers_of_every_shape(layer: str) -> None:
    module = {"conv": LAYER, "vector": "7"}.get(layer)
    if module is not None:
        given = exemplars(layer=module, previous="6" if layer == "vector" else BEFORE)
        assert bool(torch.isfinite(run(given, steps=3)[-1].images).all())
        return
    tokens = networks._seeded(Tokens())
    streams = Streams.of(0, ["a", "b"])
    given = exemplars(layer="mix", previous="patches")
    steps = list(minds_eye(networks.classifier_of(tokens), given, streams, MindsEyeOptions(steps=3, top_k=3)))
    assert steps[-1].images.shape == (2, 3, 16, 16)


class Tokens(nn.Module):
    """A row of tokens (N, T, k) between an image and its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.mix = nn.Linear(6, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.fc(self.mix(tokens).mean(dim=1))


def test_places_need_a_layer_with_places() -> None:
    with pytest.raises(ModelError, match="has no places"):
        run(exemplars(layer="7", previous=None), maps=True)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(OptionError, match="terms='both'"):
        run(exemplars(), terms="both")
    with pytest.raises(OptionError, match="start='zero'"):
        run(exemplars(), start="zero")
    with pytest.raises(OptionError, match="preset 'good'"):
        run(exemplars(), preset="good")


def test_the_presets_hold_the_papers_numbers() -> None:
    paper = MindsEyeOptions.of("paper")
    assert (paper.previous_weight, paper.last_previous_weight) == (1e-3, 1e-4)
    assert (paper.distance, paper.order, paper.previous) == ("top", 1, "norm")
    assert (paper.rate, paper.last_rate, paper.momentum, paper.steps, paper.side) == (0.5, 0.08, 0.9, 2001, 512)
    assert (paper.denoise, paper.last_denoise) == (2, 8)


def test_equation_5_is_the_linear_schedule() -> None:
    for t in range(1, 12):
        assert linear(0.5, 0.08)(t - 1, 11) == pytest.approx(oracle.schedule(0.5, 0.08, t, 11))


def test_the_preset_paper_moves_the_middle_and_keeps_its_momentum() -> None:
    given = exemplars()
    steps = run(given, preset="paper", side=32, steps=12, blur=0.0, denoise=0.0, rate=5.0, last_rate=5.0)
    assert steps[-1].images.shape == (2, 3, 32, 32)
    moved = (steps[-1].images - steps[0].images).abs().mean(dim=(0, 1))
    assert moved[14:18, 14:18].mean() > 20 * moved[:4, :4].mean()
    first, later = ((steps[i + 1].images - steps[i].images).abs().sum() for i in (0, 5))
    without = run(
        given, preset="paper", side=32, steps=12, blur=0.0, denoise=0.0, rate=5.0, last_rate=5.0, momentum=0.0
    )
    assert later / first > 1.5 * (without[6].images - without[5].images).abs().sum() / first


def test_only_the_preset_best_halves_what_comes_through_residual_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    priors = []

    def noted(*given: Any, **options: Any) -> Any:
        priors.append(given[5])
        return draw(*given, **options)

    monkeypatch.setattr("phosphene.synthesis.recipes.minds_eye.draw", noted)
    run(exemplars(), steps=1)
    run(exemplars(), steps=1, preset="paper", side=0)
    assert [prior.residual for prior in priors] == [0.5, 1.0]


def test_smoothing_comes_every_so_many_steps_inside_the_mask() -> None:
    given = exemplars()
    still = {"rate": 1e-9, "last_rate": 1e-9, "precondition": 0.0, "settle": 1.0, "tv": 0.0, "start": "exemplars"}
    steps = run(given, steps=5, smooth_every=3, blur=0.1, last_blur=0.1, mask=0.1, last_mask=0.1, **still)
    images = [given.start(), *(step.images for step in steps)]
    changes = [(later - earlier).abs() for earlier, later in pairwise(images)]
    assert [bool(change.max() > 1e-3) for change in changes] == [True, False, False, True, False]
    assert changes[0][..., 6:10, 6:10].mean() > 20 * changes[0][..., :2, :2].mean()


def test_a_larger_weight_denoises_less() -> None:
    from PIL import Image
    from skimage.data import chelsea

    picture = to_tensor(Image.fromarray(chelsea()).resize((48, 32)))[None]
    changes = [(denoised(picture, weight) - picture).abs().mean().item() for weight in (2.0, 8.0, 50.0)]
    assert changes[0] > changes[1] > changes[2] > 0
    assert denoised(picture, 0.0) is picture


def test_the_layer_before_is_the_last_to_finish_before_it() -> None:
    layers = prepare(classifier()).layers
    assert [layer_before(layers, name) for name in ("4", "0")] == ["3", None]
