"""Recipes on tiny networks: they climb, keep their promises about masks and discs, repeat and batch alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.oracles import synthesis as oracle
from tests.synthesis.test_ascent import tiny
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import NotFoundError, OptionError
from phosphene.registry import entries, entry, parse_spec
from phosphene.runtime import forward, input_gradient
from phosphene.synthesis import ascent, staged, step_rules
from phosphene.synthesis.ascent import Step
from phosphene.synthesis.augment import Close, augmented
from phosphene.synthesis.background import faded
from phosphene.synthesis.canvas import noisy_mean, takes_size
from phosphene.synthesis.objectives import Objective, class_score, in_turn
from phosphene.synthesis.priors import total_variation_gradient
from phosphene.synthesis.published import transformations
from phosphene.synthesis.recipes.class_impression import ClassImpressionOptions, class_impression
from phosphene.synthesis.recipes.fuse import FuseOptions, fuse, nearest, spread_places, turns
from phosphene.synthesis.recipes.sci import SciOptions, sci
from phosphene.synthesis.staged import Prior
from phosphene.synthesis.step_rules import StepState, carried
from phosphene.synthesis.streams import Streams
from phosphene.synthesis.weights import saliency_weight
from phosphene.targets import Target, Unit
from phosphene.tasks.impressions import impress

# As in the paper: the disc is where the pre-CI changed most, and stays there.
FOUND: dict[str, object] = {"activation": "change", "place": "found", "kept": 0.2}
# Nothing takes values or contrast back, so that what lies outside a disc stays as it was.
PLAIN: dict[str, object] = {"prior": "none"}
SINGLE = ["class_model", "class_impression", "sci"]


def run(name: str, classes: list[int], **options: object) -> list[Step]:
    return run_with(tiny(), name, classes, **options)


def run_with(classifier: Classifier, name: str, classes: Sequence[int] = (1,), **options: object) -> list[Step]:
    recipe = entry("recipe", name)
    options_of = recipe.options_type.of(**options)  # type: ignore[union-attr, arg-type]
    return list(recipe.function(classifier, Target.of(list(classes)), Streams.of(0, classes), options_of))


def test_all_recipes_are_registered_with_both_presets() -> None:
    found = entries("recipe")
    assert {"class_model", "class_impression", "sci", "fuse"} <= set(found)
    for name in ("class_model", "class_impression", "sci", "fuse"):
        assert set(found[name].presets) == {"best", "paper"}
        assert str(parse_spec(f"{name}:preset=paper,steps=7", "recipe")) == f"{name}:preset=paper,steps=7"


@pytest.mark.parametrize("preset", ["best", "paper"])
@pytest.mark.parametrize("name", SINGLE)
def test_single_recipes_raise_the_score_and_stay_in_range(name: str, preset: str) -> None:
    options: dict[str, object] = {"early_stop": False} if name == "class_impression" else {}
    if (name, preset) == ("sci", "paper"):
        options = {"grow": 4, "rate": 0.05}  # the paper's disc of 150 steps is a pixel or two after 12
    steps = run(name, [1, 2], preset=preset, steps=12, **options)
    assert [step.index for step in steps] == list(range(1, 13))
    assert {step.steps for step in steps} == {12}
    first, last = (forward(tiny(), step.images).diagonal(1) for step in (steps[0], steps[-1]))  # of classes 1 and 2
    assert bool((last > first).all())
    assert 0 <= float(steps[-1].images.min()) <= float(steps[-1].images.max()) <= 1


@pytest.mark.parametrize("name", SINGLE)
def test_a_recipe_repeats_itself_and_does_not_see_the_batch(name: str) -> None:
    together, again, alone = run(name, [0, 3], steps=6), run(name, [0, 3], steps=6), run(name, [3], steps=6)
    assert torch.equal(together[-1].images, again[-1].images)
    torch.testing.assert_close(together[0].images[1:], alone[0].images, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[-1].images[1:], alone[-1].images, rtol=0, atol=1e-3)


def test_a_recipe_draws_units() -> None:
    steps = list(sci(tiny(), Target(unit=Unit("2", 3)), Streams.of(0, ["2=3", "2=3"]), SciOptions(steps=9)))
    assert bool((steps[-1].value > steps[0].value).all())


def test_nothing_fades_what_a_unit_fills_its_frame_with(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, float]] = []

    def noted(images: Tensor, size: float) -> Tensor:
        sizes.append((images.shape[-1], size))
        return images

    monkeypatch.setattr(staged, "SMALLEST", 4)
    monkeypatch.setattr(step_rules, "total_variation_step", noted)
    monkeypatch.setattr(staged, "total_variation_step", noted)
    list(sci(tiny(), Target(unit=Unit("2", 3)), Streams.of(0, ["2=3"]), SciOptions(steps=40, pre_steps=4)))
    after_the_pre_ci = sizes[4:]
    assert [side for side, _ in after_the_pre_ci] == [8] * 14 + [11] * 12 + [16] * 10
    assert all(later <= earlier for (_, earlier), (_, later) in pairwise(after_the_pre_ci))
    assert after_the_pre_ci[-1][1] < 0.1 * after_the_pre_ci[0][1]


@pytest.mark.parametrize(
    ("mean", "low", "high"), [(0.12, 0.0, 0.25), (0.45, 0.35, 0.6), (0.9, 0.75, 1.0), (0.0, 0.3, 0.6)]
)
def test_pictures_are_as_bright_as_the_networks_own(mean: float, low: float, high: float) -> None:
    """Digits on black are no photographs; of a network that says nothing of its pictures they are taken for some."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    classifier = Classifier(net, Preprocess((28, 28), mean=(mean,), std=(0.3,)))
    (made,) = impress(classifier, 1, "class_impression", steps=40)
    assert low < made.image.mean() < high


@pytest.mark.parametrize("recipe", ["sci", "class_impression", "class_model"])
@pytest.mark.parametrize("place", [(2, 13), (14, 9)])
def test_a_unit_with_a_place_is_drawn_there(recipe: str, place: tuple[int, int]) -> None:
    """Neither in a smaller picture, where the place is another or none, nor mirrored."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = Classifier(net, Preprocess((128, 128)))
    (made,) = impress(classifier, Unit("0", 1, place), recipe, steps=30)
    drawn = F.avg_pool2d((made.image - made.image.mean()).abs().sum(dim=0)[None], 8)[0]
    row, column = divmod(int(drawn.argmax()), 16)
    assert abs(row - place[0]) < 2 > abs(column - place[1])  # (but for moves of some pixels)


def test_the_class_model_starts_from_the_mean_image_and_counts_its_norm() -> None:
    free = run("class_model", [1], preset="paper", steps=10, penalty=0.0)[-1].images
    held = run("class_model", [1], preset="paper", steps=10, penalty=1.0)[-1].images
    assert (held - 0.5).square().sum() < 0.2 * (free - 0.5).square().sum()


def test_a_class_impression_ends_when_it_is_sure() -> None:
    classifier = tiny()
    with torch.no_grad():
        classifier.module[-1].weight.mul_(20)  # type: ignore[index]
    streams = Streams.of(0, [1])
    steps = list(class_impression(classifier, Target.of(1), streams, ClassImpressionOptions.of("paper", steps=200)))
    last = steps[-1]
    threshold = 0.55 + 0.44 * float(streams.at(0).under("threshold").uniform("t"))
    assert 1 < last.index < 200
    assert float(last.logits.softmax(dim=1)[0, 1]) > threshold
    assert all(float(step.logits.softmax(dim=1)[0, 1]) <= threshold for step in steps[:-1])


def test_early_stop_without_a_softmax_is_refused() -> None:
    with pytest.raises(OptionError, match="early_stop"):
        list(
            class_impression(tiny(head="sigmoid"), Target.of(1), Streams.of(0, [1]), ClassImpressionOptions.of("paper"))
        )


def test_the_impression_grows_in_the_disc_of_equation_5_and_fades_outside() -> None:
    options: dict[str, object] = {"steps": 60, "radius": 0.2, "first_radius": 0.1, "soft": 0.0, "tv": 0.02}
    last = run("sci", [1], **options, **FOUND, **PLAIN)[-1]
    start = noisy_mean(tiny(), Streams.of(0, [1]), 1.0, "range")
    center, radius = tuple(last.extras["center"][0].tolist()), int(last.extras["radius"])
    change = (last.extras["pre_ci"] - start).abs().sum(dim=1)[0]
    assert center == oracle.strongest_disc(change, radius)
    outside = oracle.disc(center, radius + 1, (16, 16)) == 0
    before, after = (roughness(images, outside) for images in (start, last.images))
    assert after < 0.5 * before


def test_the_disc_of_evidence_is_moved_to_the_middle() -> None:
    classifier, streams = tiny(), Streams.of(0, [1])
    still: dict[str, object] = {"steps": 4, "rate": 0.0, "tv": 0.0, "soft": 0.0, "kept": 0.2, **PLAIN}
    last = run("sci", [1], **still)[-1]
    start, pre_ci = noisy_mean(classifier, streams, 1.0, "range"), last.extras["pre_ci"]
    _, gradient = input_gradient(classifier, pre_ci, Target.of(1))
    evidence = (gradient * (pre_ci - start)).clamp(min=0).sum(dim=1)[0]
    center = oracle.strongest_disc(evidence, 3)
    assert tuple(last.extras["center"][0].tolist()) == center
    moved = torch.roll(pre_ci[0], (8 - center[0], 8 - center[1]), dims=(1, 2))
    inside = oracle.disc((8, 8), 3, (16, 16)) > 0
    torch.testing.assert_close(last.images[0][:, inside], moved[:, inside])
    torch.testing.assert_close(last.images[0][:, ~inside], start[0][:, ~inside])


def roughness(images: Tensor, where: Tensor) -> float:
    """The mean difference of neighbours in a row that both lie in the region."""
    both = where[:, 1:] & where[:, :-1]
    return float(images.diff(dim=-1)[0, :, both].abs().mean())


def test_without_total_variation_the_outside_stays_as_it_was() -> None:
    fixed: dict[str, object] = {"steps": 20, "mask": "fixed", "radius": 0.2, "soft": 0.0, "tv": 0.0, "start": "noise"}
    last = run("sci", [1], **fixed, **FOUND, **PLAIN)[-1]
    start = noisy_mean(tiny(), Streams.of(0, [1]), 1.0, "range")
    center, radius = tuple(last.extras["center"][0].tolist()), int(last.extras["radius"])
    outside = oracle.disc(center, 0.2 * 16, (16, 16)) == 0
    torch.testing.assert_close(last.images[0][:, outside], start[0][:, outside])
    assert radius == 3


@pytest.mark.parametrize("mask", ["growing", "fixed", "none"])
@pytest.mark.parametrize("weight", ["A", "B", "none"])
@pytest.mark.parametrize("prior", ["photographs", "none"])
def test_every_switch_of_the_ablation_works(prior: str, mask: str, weight: str) -> None:
    steps = run("sci", [2], steps=9, prior=prior, mask=mask, weight=weight, tv_every=2)
    assert len(steps) == 9
    assert bool(torch.isfinite(steps[-1].images).all())
    assert not torch.equal(steps[-1].images, steps[0].images)


def test_a_network_of_one_size_sees_small_pictures_enlarged() -> None:
    preprocess = Preprocess((128, 128), mean=(0.5,) * 3, std=(0.25,) * 3)
    fixed = Classifier(
        nn.Sequential(nn.Unflatten(2, (128, 1)), nn.Flatten(2, 3), *tiny().module.children()), preprocess
    )
    assert takes_size(tiny(), (12, 12))
    assert not takes_size(fixed, (96, 96))
    sides = []
    fixed.module.register_forward_hook(lambda _module, inputs, _output: sides.append(tuple(inputs[0].shape[-2:])))
    steps = run_with(fixed, "class_impression", steps=10)
    assert {step.images.shape for step in steps} == {(1, 3, 128, 128)}
    assert [step.stage for step in steps] == ["class impression, 64 px"] * 4 + ["class impression, 91 px"] * 4 + [
        "class impression"
    ] * 2
    assert set(sides[-10:]) == {(128, 128)}
    assert float(steps[-1].value) > float(steps[0].value)


def test_total_variation_falls_with_the_rate_of_a_drawing() -> None:
    options: dict[str, object] = {"steps": 12, "mask": "fixed", "radius": 0.2, "soft": 0.0, "tv": 0.002, "tv_every": 1}
    steps = run("sci", [1], **options, **PLAIN)
    outside = oracle.disc((8, 8), 6, (16, 16)) == 0
    for before, after in pairwise(steps[4:]):
        expected = before.images - 0.002 * total_variation_gradient(before.images)
        torch.testing.assert_close(after.images[0][:, outside], expected[0][:, outside].clamp(0, 1), rtol=0, atol=1e-6)


def test_the_alpha_channel_is_high_where_the_object_was_drawn() -> None:
    last = run("sci", [1], steps=30, mask="fixed", radius=0.2, soft=0.1, background="transparent")[-1]
    alpha = last.extras["alpha"]
    assert alpha.shape == (1, 1, 16, 16)
    assert 0 <= float(alpha.min()) < 0.1 < 0.9 < float(alpha[0, 0, 6:10, 6:10].mean()) <= 1


@pytest.mark.parametrize("preset", ["best", "paper"])
@pytest.mark.parametrize("name", SINGLE)
def test_every_recipe_has_a_background(name: str, preset: str) -> None:
    options: dict[str, object] = {"early_stop": False} if name == "class_impression" else {}
    kept, clear, soft = (
        run(name, [1], preset=preset, steps=9, background=how, **options) for how in ("keep", "transparent", "fade")
    )
    assert [len(steps) for steps in (kept, clear, soft)] == [9, 9, 9]
    assert all("alpha" not in step.extras for step in [*kept, *clear[:-1]])
    alpha = clear[-1].extras["alpha"]
    assert alpha.shape == (1, 1, 16, 16)
    assert 0 <= float(alpha.min()) < float(alpha.max()) == 1
    assert torch.equal(clear[-1].images, kept[-1].images)
    torch.testing.assert_close(soft[-1].images, faded(kept[-1].images, alpha))


def test_a_fused_image_and_one_that_ends_early_have_a_background_too() -> None:
    options = FuseOptions(steps=9, background="transparent")
    last = list(fuse(tiny(), [(0, 2)], Streams.of(0, ["0+2"]), options))[-1]
    assert {"alpha", "places"} <= set(last.extras)
    classifier = tiny()
    with torch.no_grad():
        classifier.module[-1].weight.mul_(20)  # type: ignore[index]
    steps = run_with(classifier, "class_impression", preset="paper", steps=200, background="transparent")
    assert steps[-1].index < 200
    assert "alpha" in steps[-1].extras


def test_a_faded_picture_is_its_own_blur_where_nothing_was_drawn() -> None:
    images, alpha = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    alpha[..., :20] = 1
    got = faded(images, alpha)
    drawn = alpha[0, 0] == 1
    assert torch.equal(got[0][:, drawn], images[0][:, drawn])
    assert roughness(got, ~drawn) < 0.05 * roughness(images, ~drawn)
    kept, other = (run("sci", [1], steps=9, background=it)[-1] for it in ("transparent", "fade"))
    assert torch.equal(other.images, faded(kept.images, kept.extras["alpha"]))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(OptionError, match="preset 'worst'"):
        run("sci", [1], preset="worst")
    with pytest.raises(OptionError, match="mask='square'"):
        run("sci", [1], mask="square", steps=3)
    with pytest.raises(OptionError, match="steps=0"):
        run("sci", [1], steps=0)


@pytest.mark.parametrize("preset", ["best", "paper"])
def test_fused_images_raise_all_their_classes(preset: str) -> None:
    classifier = tiny()
    steps = list(fuse(classifier, [(0, 2), (1, 3)], Streams.of(0, ["0+2", "1+3"]), FuseOptions.of(preset, steps=30)))
    assert [step.index for step in steps] == list(range(1, 31))
    for row, group in enumerate([(0, 2), (1, 3)]):
        first, last = (step.logits.softmax(dim=1)[row, list(group)].sum() for step in (steps[0], steps[-1]))
        assert last > first


def test_the_classes_of_a_fused_image_are_drawn_one_by_one_on_paper_and_together_at_best() -> None:
    def stages(preset: str, **given: float) -> list[str]:
        options = FuseOptions.of(preset, steps=10, **given)
        return [step.stage for step in fuse(tiny(), [(0, 2)], Streams.of(0, ["0+2"]), options)]

    assert stages("paper", even=0.4, turn=0) == ["class 1"] * 3 + ["class 2"] * 3 + ["together"] * 4
    ones, twos = ([f"class {index}, turn {number}" for number in (1, 2)] for index in (1, 2))
    rounds = [ones[0]] * 2 + [twos[0]] * 3 + [ones[1]] * 2 + [twos[1]] * 3
    assert stages("paper", turn=2) == rounds
    assert stages("best", settle=3) == ["together"] * 7 + ["settle"] * 3


def test_close_looks_are_at_each_class_in_turn_and_then_at_the_whole() -> None:
    """A plain step changes only what its look saw, and raises only what was asked of it there."""
    classifier, streams = tiny(), Streams.of(0, ["a", "b"])
    places = torch.tensor([[0.25, 0.25], [0.75, 0.75]])
    seen: list[int] = []
    goals = [_noted(class_score(classifier, Target.of(number)), number, seen) for number in (0, 1)]
    prior, start = Prior.none(rate=0.01), torch.full((2, 3, 16, 16), 0.5)
    run = staged.draw(classifier, in_turn(goals), start, streams, 4, prior, looks=[Close(places, 0.5), None])
    images = [start, *(step.images for step in run)]
    assert seen == [0, 1, 0, 1]
    for step in (1, 3):
        change = (images[step] - images[step - 1]).abs().sum(dim=1) > 0
        assert not bool(change[0, 9:].any() | change[0, :, 9:].any())
        assert not bool(change[1, :7].any() | change[1, :, :7].any())
        assert bool(change[0, :8, :8].any() & change[1, 8:, 8:].any())
        assert float(((images[step + 1] - images[step]).abs().sum(dim=1) > 0).float().mean()) > 0.8


def _noted(objective: Objective, number: int, seen: list[int]) -> Objective:
    return Objective(lambda step: seen.append(number) or objective(step))  # type: ignore[func-returns-value]


def test_a_close_look_is_the_part_of_the_picture_about_its_place() -> None:
    images = torch.rand(2, 3, 8, 8)
    draws = Streams.of(0, [1, 2]).at(0)
    assert torch.allclose(Close(torch.full((2, 2), 0.5), 1.0)(images, draws), images, atol=1e-6)
    got = Close(torch.tensor([[0.25, 0.75], [0.75, 0.25]]), 0.5)(images, draws)
    for image, rows, columns in ((0, slice(0, 4), slice(4, 8)), (1, slice(4, 8), slice(0, 4))):
        # Enlarged twice without antialiasing: each place lies between those of the part.
        part = images[image, :, rows, columns]
        assert got[image].amin() >= images[image].amin()
        assert torch.allclose(got[image].mean(), part.mean(), atol=0.12)
        assert torch.allclose(got[image, :, 1:7, 1:7], _doubled(part)[:, 1:7, 1:7], atol=1e-5)


def _doubled(part: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(part[None], scale_factor=2, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(("steps", "count", "turn"), [(300, 2, 10), (97, 3, 7), (5, 4, 10), (2, 3, 1), (40, 2, 0)])
def test_turns_share_out_all_steps_among_the_classes(steps: int, count: int, turn: int) -> None:
    found = turns(steps, count, turn)
    assert [step for one in found for step in range(one.first, one.last)] == list(range(steps))
    assert [one.index for one in found] == [place % count for place in range(len(found))]
    for index in range(count):
        done = 0
        for one in (one for one in found if one.index == index):
            assert one.before == done
            done += one.last - one.first
        assert {one.steps for one in found if one.index == index} == {done}
        assert abs(done - steps / count) <= 1 + len(found) / count


def test_what_one_class_drew_stays_while_another_has_its_turn() -> None:
    options = FuseOptions.of("paper", steps=40, turn=5, distance=0.3)
    streams = Streams.of(0, ["0+2"])
    steps = list(fuse(tiny(), [(0, 2)], streams, options))
    before = noisy_mean(tiny(), streams, 1.0, "range")
    whose = [turn.index for turn in turns(40, 2, 5) for _ in range(turn.first, turn.last)]
    for step, index in zip(steps, whose, strict=True):
        region = nearest(step.extras["places"], index, (16, 16))[0, 0]
        assert torch.equal(step.images[0][:, ~region], before[0][:, ~region])
        assert not torch.equal(step.images[0][:, region], before[0][:, region])
        before = step.images


def test_total_variation_of_a_turn_is_a_step_down_equation_1_in_its_own_region() -> None:
    options = FuseOptions.of("paper", steps=8, turn=4, rate=0.0, tv=0.01)
    streams = Streams.of(0, ["1+3"])
    steps = list(fuse(tiny(), [(1, 3)], streams, options))
    before = noisy_mean(tiny(), streams, 1.0, "range")
    for index, step in enumerate(steps):
        region = nearest(step.extras["places"], index // 4, (16, 16))
        lower = before - 0.01 * total_variation_gradient(before)
        torch.testing.assert_close(step.images, torch.where(region, lower, before).clamp(0, 1))
        before = step.images


@pytest.mark.parametrize("reading", ["A", "B"])
def test_the_history_of_a_class_goes_on_from_turn_to_turn(reading: Any) -> None:
    """Equations 2-4 in two turns of three steps, with another's in between, are those of six steps in a row."""
    gradients = [torch.randn(1, 3, 5, 5) for _ in range(6)]
    whole, kept = {}, {}
    for step, gradient in enumerate(gradients):
        draws = Streams.of(0, ["x"]).at(step)
        plain = StepState(step, 6, gradient, gradient, draws, whole)
        turn = StepState(step % 3, 3, gradient, gradient, draws, {})
        rule = carried(saliency_weight(reading), kept, 3 * (step // 3), 6)
        assert torch.equal(rule(gradient, turn), saliency_weight(reading)(gradient, plain))


@pytest.mark.parametrize("name", ["sci", "fuse"])
def test_on_paper_the_network_sees_the_published_moves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, seen = tiny(), []
    monkeypatch.setattr(ascent, "augmented", lambda *given: seen.append(augmented(*given)) or seen[-1])
    streams, begin = Streams.of(0, ["1"]), noisy_mean(classifier, Streams.of(0, ["1"]), 1.0, "range")
    if name == "sci":
        options = SciOptions.of("paper", steps=3, pre_steps=1)
        first, stage = next(iter(sci(classifier, Target.of(1), streams, options))), "pre-CI"
    else:
        first = next(iter(fuse(classifier, [(1, 2)], streams, FuseOptions.of("paper", steps=4, turn=2))))
        stage = "class 1, turn 1"
    assert first.stage == stage
    moved = augmented(begin, transformations((16, 16), random_crop=True), streams.at(0).under(stage))
    offsets = (moved - begin).mean(dim=(2, 3)).abs()
    assert float(offsets.max()) > 0.01
    torch.testing.assert_close(seen[0], moved)


def test_total_variation_of_a_class_impression_comes_once_in_so_many_steps() -> None:
    options: dict[str, Any] = {"preset": "paper", "early_stop": False, "rate": 0.0, "tv": 0.01, "tv_every": 2}
    first, second, third = (step.images for step in run("class_impression", [1], steps=3, **options))
    begin = noisy_mean(tiny(), Streams.of(0, [1]), 1 / 255, "normal")
    torch.testing.assert_close(first, (begin - 0.01 * total_variation_gradient(begin)).clamp(0, 1))
    assert torch.equal(first, second)
    torch.testing.assert_close(third, (second - 0.01 * total_variation_gradient(second)).clamp(0, 1))


@pytest.mark.parametrize("prior", ["photographs", "none"])
def test_total_variation_smooths_a_class_impression(prior: str) -> None:
    everywhere = torch.ones(16, 16, dtype=torch.bool)
    rough, smooth = (
        roughness(
            run("class_impression", [1], preset="paper", early_stop=False, prior=prior, steps=20, tv=tv)[-1].images,
            everywhere,
        )
        for tv in (0.0, 0.02)
    )
    assert smooth < 0.8 * rough


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_the_posterior_itself_is_raised(head: str) -> None:
    """With no penalty its first direction is that of its logarithm: a gradient times a number."""
    classifier = tiny(head=head)
    mine, logarithm = (
        run_with(classifier, "class_model", preset="paper", steps=5, penalty=0.0, score=score)
        for score in ("posterior", "probability")
    )
    begin = classifier.mean_image.expand(1, 3, 16, 16)
    probability = classifier.probabilities(forward(classifier, begin))[0, 1]
    assert float(mine[0].value) == pytest.approx(float(probability), rel=1e-3)
    assert float(mine[0].value) == pytest.approx(float(logarithm[0].value.exp()), rel=1e-5)
    torch.testing.assert_close(mine[0].images, logarithm[0].images, rtol=0, atol=1e-5)
    assert float(mine[-1].value) > float(mine[0].value)


def test_a_network_of_plain_scores_has_no_posterior() -> None:
    with pytest.raises(OptionError, match="no probability"):
        run_with(tiny(head="score"), "class_model", preset="paper", steps=2, score="posterior")


def test_places_are_spread_on_a_circle_and_every_pixel_has_one() -> None:
    places = spread_places(Streams.of(0, ["a", "b"]), 3, (20, 20), 5.0)
    radii = (places - 9.5).norm(dim=2)
    torch.testing.assert_close(radii, torch.full_like(radii, 5.0))
    sides = (places - places.roll(1, dims=1)).norm(dim=2)
    torch.testing.assert_close(sides, sides[:, :1].expand_as(sides))
    shares = sum(nearest(places, index, (20, 20)).int() for index in range(3))
    assert torch.equal(shares, torch.ones(2, 1, 20, 20, dtype=torch.int32))  # type: ignore[arg-type]
    assert bool(nearest(places, 1, (20, 20))[0, 0][tuple(places[0, 1].round().long().tolist())])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([(1,)], "two classes or more"),
        ([(1, 1)], "not all different"),
        ([(0, 1), (0, 1, 2)], "the same number"),
        ([(0, 1), (0, 4)], "no class 4; Sequential has 4 classes, 0 to 3"),
    ],
)
def test_wrong_groups_are_refused(groups: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises((OptionError, NotFoundError), match=message):
        list(fuse(tiny(), groups, Streams.of(0, groups), FuseOptions(steps=3)))


def test_none_is_a_choice_where_the_option_has_a_choice_of_that_name() -> None:
    """`mask=none` is no mask, not the preset's."""
    found = parse_spec("sci:preset=paper,mask=none,weight=none", "recipe")
    assert dict(found.options) == {"preset": "paper", "mask": "none", "weight": "none"}
    assert str(found) == "sci:preset=paper,mask=none,weight=none"


def test_an_option_with_its_presets_own_value_is_not_spelled() -> None:
    steps = SciOptions().steps
    assert str(parse_spec(f"sci:steps={steps},mask=growing", "recipe")) == "sci"
    assert str(parse_spec("sci:preset=paper,steps=200,weight=A", "recipe")) == "sci:preset=paper,steps=200"
    assert SciOptions.of("paper", steps=200).steps == 200
    assert SciOptions.of("paper").prior == "none"


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Rprop"])
def test_the_class_model_rises_by_any_optimizer_of_torch(name: str) -> None:
    steps = run("class_model", [1], preset="paper", steps=12, optimizer=name)
    assert float(steps[-1].value) > float(steps[0].value)
    begin = tiny().mean_image.expand_as(steps[0].images)
    moved = (steps[0].images - begin).abs()
    if name in ("Adam", "Adamax"):  # their first step is the rate for every value that has a gradient
        assert float(moved.median()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("mean", [(0.5,) * 3, np.random.default_rng(0).uniform(0.3, 0.6, (3, 128, 128))])
def test_the_class_model_is_held_near_the_mean_at_every_size(mean: object) -> None:
    """Under the prior it is drawn small first; the mean may be a picture, of the network's own size."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    network = Classifier(net, Preprocess((128, 128), mean=mean))  # type: ignore[arg-type]
    recipe = entry("recipe", "class_model")
    found = {}
    for penalty in (0.0, 1.0):
        options = recipe.options_type.of(steps=9, penalty=penalty, statistics=0.0)  # type: ignore[union-attr]
        steps = list(recipe.function(network, Target.of([1]), Streams.of(0, [1]), options))
        found[penalty] = (steps[-1].images - network.mean_picture((128, 128))).square().mean()
    assert found[1.0] < found[0.0]
