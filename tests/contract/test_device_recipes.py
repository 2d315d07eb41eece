"""Recipes and metrics on a device that is not the CPU, tested without one (tests/pretend_device.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from phosphene import metrics as _metrics  # noqa: F401 (registers them)
from phosphene.classifier import Classifier
from phosphene.errors import NumericalError
from phosphene.metrics.average_drop import average_drop, average_increase, explanation_images
from phosphene.metrics.evidence_share import evidence_share
from phosphene.metrics.insertion_deletion import deletion, insertion, rise_blur
from phosphene.metrics.single_object import object_count, positive_evidence, single_object_index
from phosphene.metrics.spearman import spearman
from phosphene.metrics.ssim import ssim
from phosphene.registry import entries
from phosphene.synthesis.ascent import Step, ascend
from phosphene.synthesis.augment import CropAbout
from phosphene.synthesis.objectives import Objective, channel
from phosphene.synthesis.recipes.minds_eye import Exemplars
from phosphene.synthesis.recipes.sci import SciOptions, sci
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target, Unit
from tests.contract.test_devices import counted, default_device, images_of, moved
from tests.networks import classifier_of, smooth

RECIPES = list(entries("recipe"))
PRESETS = [(name, preset) for name in RECIPES for preset in entries("recipe")[name].presets]


def exemplars() -> Exemplars:
    return Exemplars("4", (images_of(4), 1 - images_of(4)), (torch.tensor([0.4, 0.3, 0.2, 0.1]),) * 2, "3")


def made(name: str, classifier: Classifier, steps: int = 6, **options: object) -> list[Step]:
    """The steps of a recipe on what it takes: classes, groups of classes, or pictures and their layer."""
    entry = entries("recipe")[name]
    goal: object = Target.of([1, 3])
    if entry.traits.get("groups"):
        goal = [(1, 3), (0, 2)]
    elif name == "minds_eye":
        goal = exemplars()
        options["top_k"] = 3
    return list(
        entry.function(classifier, goal, Streams.of(0, ["1", "3"]), entry.options_type.of(steps=steps, **options))
    )


@functools.cache
def on_the_cpu(name: str, preset: str | None = None) -> list[Step]:
    """The steps there, once for all devices."""
    return made(name, classifier_of(smooth()), **({"preset": preset} if preset else {}))


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_recipe_makes_the_images_of_the_cpu(name, preset, device):
    """The same seed, the same random numbers: only rounding parts them."""
    expected = on_the_cpu(name, preset)
    got = made(name, moved(classifier_of(smooth()), device), preset=preset)
    assert len(got) == len(expected)
    for step, other in zip(got, expected, strict=True):
        assert step.images.device == step.value.device == step.logits.device == device.place
        assert step.images.dtype == torch.float32
        torch.testing.assert_close(step.images.cpu(), other.images, rtol=0, atol=device.tolerance)
    assert device.draws == 0


@pytest.mark.strictest
@pytest.mark.parametrize("where", ["cpu", "device"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_default_device_changes_no_recipe(name, where, device):
    if name == "minds_eye":
        pytest.skip("its exemplars are the caller's own tensors")
    expected = on_the_cpu(name)
    classifier = classifier_of(smooth()) if where == "cpu" else moved(classifier_of(smooth()), device)
    with default_device(device.place):
        got = made(name, classifier)
    torch.testing.assert_close(got[-1].images.cpu(), expected[-1].images, rtol=0, atol=device.tolerance)


def test_a_unit_is_drawn_on_the_device(device):
    classifier, target = moved(classifier_of(smooth()), device), Target(unit=Unit("4", 3))
    steps = list(sci(classifier, target, Streams.of(0, ["4=3"]), SciOptions(steps=6)))
    assert steps[-1].images.device == device.place


# An impression that ends when the network is sure has to ask at each step whether it is.
@pytest.mark.parametrize("name", RECIPES)
def test_steps_do_not_wait_for_the_device(name, pretended):
    if (name == "minds_eye") != pretended.float64:
        pytest.skip(
            "the stricter one is enough, but the shape of a loss is fitted in float64, where it has none on the CPU"
        )
    classifier = moved(classifier_of(smooth()), pretended)
    made(name, classifier, 3)

    def waits(steps: int) -> int:
        return counted(pretended, lambda: made(name, classifier, steps))

    assert waits(36) <= waits(6) + 30 // 15  # (whether gradients are numbers is asked once in some steps)


def test_a_channel_of_each_image_is_raised_without_a_question(pretended):
    classifier = moved(classifier_of(smooth()), pretended)

    def run(steps: int) -> Callable[[], object]:
        start = images_of(2).to(pretended.place)
        return lambda: list(
            ascend(classifier, channel("4", [1, 2]), start, steps=steps, streams=Streams.of(0, [1, 2]), rate=0.1)
        )

    counted(pretended, run(3))
    assert counted(pretended, run(12)) == counted(pretended, run(3))


def test_parts_are_cut_out_about_places_on_the_device(device):
    images, centers = images_of(2), torch.tensor([[3, 5], [14, 1]])
    draws = Streams.of(0, [1, 2]).at(0)
    expected = CropAbout(centers, (5, 7))(images, draws)
    got = CropAbout(centers.to(device.place), (5, 7))(images.to(device.place), draws)
    assert torch.equal(got.cpu(), expected)


@pytest.mark.parametrize("steps", [3, 40])
def test_a_gradient_that_is_none_is_named_with_its_step_though_it_is_asked_for_late(steps, device):
    classifier = moved(classifier_of(smooth()), device)
    nothing = Objective(lambda reading: reading.logits[:, 0] * (0.0 if reading.step == 2 else 1.0))
    run = ascend(classifier, nothing, images_of(1).to(device.place), steps=steps, streams=Streams.of(7, ["x"]))
    with pytest.raises(NumericalError, match=r"zero everywhere \(target x, seed 7, step 2"):
        list(run)


def probability(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def _deletion(image: Tensor, heat: Tensor) -> Tensor:
    curve = deletion(image, heat, probability, blank=image.new_zeros(3, 1, 1))
    return torch.cat([curve.values.cpu(), torch.tensor([curve.area], device="cpu")])


def _insertion(image: Tensor, heat: Tensor) -> Tensor:
    curve = insertion(image, heat, probability, start=rise_blur(image, image.new_zeros(3, 1, 1)))
    return torch.cat([curve.fractions.cpu(), curve.values.cpu(), torch.tensor([curve.area], device="cpu")])


# On (images (3, 3, 16, 16), maps, other maps).
METRICS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor | float]] = {
    "spearman": lambda _, maps, others: spearman(maps, others),
    "ssim": lambda _, maps, others: ssim(maps, others),
    "evidence_share": lambda _, maps, others: evidence_share(maps - 0.5, others > 0.5),
    "average_drop": lambda images, maps, _: average_drop(
        probability(images), probability(explanation_images(images, maps, images.new_zeros(3, 1, 1)))
    ),
    "average_increase": lambda _, maps, others: average_increase(maps[0, 0] + 0.1, others[0, 0]),
    "deletion": lambda images, maps, _: _deletion(images[0], maps[0]),
    "insertion": lambda images, maps, _: _insertion(images[0], maps[0]),
    "single_object_index": lambda images, maps, _: single_object_index(
        images,
        positive_evidence(images, maps[:, None].expand(-1, 3, -1, -1), images.new_zeros(3, 1, 1)),
        images.new_zeros(3, 1, 1),
        probability,
    ),
    "object_count": lambda _, maps, __: object_count(maps.square()),
}


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_the_numbers_of_the_cpu(name, default, device):
    given = images_of(), *torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5)).unbind(0)
    expected = torch.as_tensor(METRICS[name](*given))
    here = given if default else [values.to(device.place) for values in given]
    if default:
        with default_device(device.place):
            got = METRICS[name](*here)
    else:
        got = METRICS[name](*here)
    torch.testing.assert_close(torch.as_tensor(got).cpu(), expected)
