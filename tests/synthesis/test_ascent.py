"""The loop: it climbs, repeats itself to the bit, keeps images apart, and stops at gradients that are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import NumericalError, OptionError
from phosphene.synthesis import objectives
from phosphene.synthesis.ascent import Step, adam, ascend
from phosphene.synthesis.augment import Affine, ColorOffset, Noise, augmented
from phosphene.synthesis.masks import disc
from phosphene.synthesis.objectives import Objective, class_score
from phosphene.synthesis.parametrization import Fourier
from phosphene.synthesis.schedules import linear
from phosphene.synthesis.step_rules import StepState, clip, every, multiply, unit_rms, within
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target, Unit


def tiny(channels: int = 3, classes: int = 4, head: str = "softmax") -> Classifier:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )
    preprocess = Preprocess((16, 16), mean=(0.5,) * channels, std=(0.25,) * channels)
    return Classifier(net, preprocess, head=head)  # type: ignore[arg-type]


def gray(classifier: Classifier, count: int) -> Tensor:
    streams = Streams.of(0, range(count)).at(0)
    noise = streams.field("start", (classifier.preprocess.channels, 16, 16))
    return 0.5 + 0.1 * (noise - 0.5)


def last(steps: object) -> Step:
    step = None
    for step in steps:  # type: ignore[attr-defined]  # noqa: B007
        pass
    assert isinstance(step, Step)
    return step


OBJECTIVES: dict[str, Callable[[Classifier], Objective]] = {
    "logit": lambda c: class_score(c, Target.of([1, 2])),
    "posterior": lambda c: class_score(c, Target.of([1, 2]), "probability"),
    "margin": lambda c: class_score(c, Target.of([1, 2]), "margin"),
    "versus": lambda c: class_score(c, Target.of([1, 2], versus=0)),
    "channel": lambda c: objectives.channel("2", [1, 5]),
    "one channel": lambda c: objectives.channel("2", 1),
    "neuron": lambda c: objectives.neuron("0", 2, (4, 5)),
    "energy": lambda c: objectives.energy("0"),
    "unit": lambda c: objectives.unit(Unit("6", 3)),
    "direction": lambda c: objectives.direction("2", torch.eye(8)[:2]),
    "direction of a whole layer": lambda c: objectives.direction("2", torch.ones(8, 7, 7)[None]),
    "sum and product": lambda c: (
        class_score(c, Target.of(0)) * torch.tensor([1.0, 2.0])
        + 0.5 * objectives.channel("0", 1)
        - 1e-4 * objectives.squared_norm(torch.full((3, 1, 1), 0.5))
    ),
    "product of two": lambda c: objectives.energy("0") * objectives.energy("2"),
    "less of a norm": lambda c: -objectives.absolute_norm(torch.zeros(3, 1, 1)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_rises_in_a_few_steps(name: str) -> None:
    classifier = tiny()
    rising = ascend(
        classifier,
        OBJECTIVES[name](classifier),
        gray(classifier, 2),
        steps=4,
        streams=Streams.of(0, [1, 2]),
        rate=0.01,
        direction=[unit_rms()],
        after=[clip],
    )
    values = torch.stack([step.value for step in rising])
    assert bool((values.diff(dim=0) > 0).all())


def noisy_ascent(classifier: Classifier, classes: list[int], steps: int = 6, **settings: object) -> Step:
    arguments: dict[str, object] = {
        "rate": linear(0.1, 0.01),
        "augmentations": [Affine(10, (0.8, 1.2), 2), ColorOffset(0.1), Noise(0.05)],
        "direction": [unit_rms()],
        "after": [clip],
    }
    start = torch.cat([gray(classifier, max(classes) + 1)[index : index + 1] for index in classes])
    objective = class_score(classifier, Target.of(classes))
    streams = Streams.of(0, classes)
    return last(ascend(classifier, objective, start, steps=steps, streams=streams, **{**arguments, **settings}))  # type: ignore[arg-type]


def test_a_repeated_run_is_identical_to_the_bit() -> None:
    first, again = (noisy_ascent(tiny(), [0, 1, 2]).images for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("optimizer", [None, adam])
def test_an_image_does_not_see_its_batch(optimizer: object) -> None:
    classifier = tiny()
    together = noisy_ascent(classifier, [0, 1, 2, 3], optimizer=optimizer).images
    in_pairs = noisy_ascent(classifier, [0, 1, 2, 3], optimizer=optimizer, batch_size=2).images
    turned = noisy_ascent(classifier, [3, 1], optimizer=optimizer).images
    torch.testing.assert_close(together, in_pairs, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[[3, 1]], turned, rtol=0, atol=1e-5)


def test_the_users_network_and_the_random_state_stay_as_they_were() -> None:
    classifier = tiny()
    classifier.module.train()
    weights = {name: value.clone() for name, value in classifier.module.state_dict().items()}
    state = torch.get_rng_state()
    with torch.inference_mode():
        noisy_ascent(classifier, [0, 1])
    assert classifier.module.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in classifier.module.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in classifier.module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_images_stay_in_range_and_outside_the_mask_nothing_moves() -> None:
    classifier = tiny()
    start = gray(classifier, 2)
    mask = disc(torch.tensor([[8, 8], [4, 4]]), 3, (16, 16))
    step = last(
        ascend(
            classifier,
            class_score(classifier, Target.of([0, 1])),
            start,
            steps=5,
            streams=Streams.of(0, [0, 1]),
            rate=0.5,
            direction=[unit_rms(), multiply(mask)],
            after=[clip],
        )
    )
    inside = mask.expand_as(start) > 0
    assert step.images.min() >= 0
    assert step.images.max() <= 1
    assert torch.equal(step.images[~inside], start[~inside])
    assert not torch.equal(step.images[inside], start[inside])


def test_rules_at_intervals_and_within_a_mask() -> None:
    classifier = tiny()
    start = gray(classifier, 1)
    mask = disc(torch.tensor([[8, 8]]), 3, (16, 16))
    seen: list[int] = []

    def whiten(images: Tensor, state: object) -> Tensor:
        seen.append(state.step)  # type: ignore[attr-defined]
        return torch.ones_like(images)

    steps = ascend(
        classifier,
        class_score(classifier, Target.of(0)),
        start,
        steps=7,
        streams=Streams.of(0, [0]),
        rate=0.0,
        after=[every(3, within(mask, whiten), offset=1)],
    )
    expected = torch.where(mask.expand_as(start) > 0, torch.ones_like(start), start)
    assert torch.equal(last(steps).images, expected)
    assert seen == [1, 4]


def test_images_that_are_done_no_longer_change_and_the_run_ends_when_all_are() -> None:
    classifier = tiny()
    threshold = torch.tensor([-1e9, 1e9])

    def made(steps: int, limit: Tensor) -> list[Step]:
        objective = class_score(classifier, Target.of(0))
        return list(
            ascend(
                classifier,
                objective,
                gray(classifier, 2),
                steps=steps,
                streams=Streams.of(0, [0, 1]),
                optimizer=adam,
                rate=0.05,
                after=[clip],
                stop=lambda logits: logits[:, 0] > limit,
            )
        )

    steps = made(5, threshold)
    assert len(steps) == 5
    torch.testing.assert_close(steps[-1].images[0], gray(classifier, 2)[0])
    assert not torch.equal(steps[-1].images[1], gray(classifier, 2)[1])
    assert len(made(5, torch.full((2,), -1e9))) == 1


def test_fourier_parameters_climb_too_and_never_leave_the_range() -> None:
    classifier = tiny()
    steps = list(
        ascend(
            classifier,
            class_score(classifier, Target.of(0)),
            gray(classifier, 1),
            steps=5,
            streams=Streams.of(0, [0]),
            parametrization=Fourier((16, 16)),
            optimizer=adam,
            rate=0.05,
        )
    )
    assert steps[-1].value.item() > steps[0].value.item()
    assert steps[-1].images.min() > 0
    assert steps[-1].images.max() < 1


def test_a_zero_gradient_stops_with_a_clear_error() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    with torch.no_grad():
        net[1].weight[1].zero_()  # type: ignore[union-attr, operator]
    classifier = Classifier(net)
    rising = ascend(
        classifier,
        class_score(classifier, Target.of([0, 1])),
        torch.rand(2, 3, 16, 16),
        steps=2,
        streams=Streams.of(5, [0, 1]),
    )
    with pytest.raises(NumericalError, match=r"zero everywhere \(target 1, seed 5, step 0\)"):
        list(rising)


def test_a_nan_gradient_stops_with_a_clear_error() -> None:
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)))
    broken = Objective(lambda reading: reading.logits[:, 0] * float("nan"))
    with pytest.raises(NumericalError, match="NaN or infinity"):
        list(ascend(classifier, broken, torch.rand(1, 3, 16, 16), steps=1, streams=Streams.of(0, [0])))


@pytest.mark.parametrize(("channels", "head"), [(1, "softmax"), (3, "sigmoid"), (5, "score")])
def test_networks_of_any_channels_and_head(channels: int, head: str) -> None:
    classifier = tiny(channels, head=head)
    assert noisy_ascent(classifier, [0, 1]).images.shape == (2, channels, 16, 16)


def test_a_log_probability_needs_one() -> None:
    classifier = tiny(head="score")
    objective = class_score(classifier, Target.of(0, score="probability"))
    rising = ascend(classifier, objective, gray(classifier, 1), steps=1, streams=Streams.of(0, [0]))
    with pytest.raises(OptionError, match="no probability"):
        list(rising)


def test_wrong_counts_are_refused() -> None:
    classifier = tiny()
    objective = class_score(classifier, Target.of(0))
    with pytest.raises(OptionError, match="2 random streams for 1 images"):
        list(ascend(classifier, objective, gray(classifier, 1), steps=1, streams=Streams.of(0, [0, 1])))
    with pytest.raises(OptionError, match="steps=-1"):
        list(ascend(classifier, objective, gray(classifier, 1), steps=-1, streams=Streams.of(0, [0])))


def test_a_step_of_several_looks_is_the_mean_of_their_gradients() -> None:
    classifier, start = tiny(), gray(tiny(), 2)
    streams = Streams.of([4, 5], ["a", "b"])
    moves = [Affine(20.0, (0.7, 1.4), 3.0)]
    objective = class_score(classifier, Target.of([1, 2]))
    seen: list[Tensor] = []

    def keep(gradient: Tensor, _state: StepState) -> Tensor:
        seen.append(gradient.clone())
        return gradient

    last(
        ascend(
            classifier,
            objective,
            start,
            steps=1,
            streams=streams,
            augmentations=moves,
            views_per_step=3,
            direction=[keep],
        )
    )
    draws = streams.at(0).under("")
    wanted = []
    for own in (draws, draws.under("look 1"), draws.under("look 2")):
        leaf = start.clone().requires_grad_()
        logits = classifier.logits(augmented(leaf, moves, own))
        wanted.append(torch.autograd.grad(logits[0, 1] + logits[1, 2], leaf)[0])
    assert not torch.allclose(wanted[0], wanted[1], rtol=0.1)
    torch.testing.assert_close(seen[0], torch.stack(wanted).mean(dim=0), rtol=1e-4, atol=1e-7)


def test_looks_of_an_image_do_not_depend_on_its_batch_and_none_is_refused() -> None:
    classifier, start = tiny(), gray(tiny(), 2)
    moves = [Affine(20.0, (0.7, 1.4), 3.0)]

    def final(rows: list[int], batch_size: int | None = None) -> Tensor:
        run = ascend(
            classifier,
            class_score(classifier, Target.of([[1, 2][row] for row in rows])),
            start[rows],
            steps=3,
            streams=Streams.of([4 + row for row in rows], ["ab"[row] for row in rows]),
            rate=0.01,
            augmentations=moves,
            views_per_step=2,
            direction=[unit_rms()],
            batch_size=batch_size,
        )
        return last(run).images

    both = final([0, 1])
    torch.testing.assert_close(torch.cat([final([0]), final([1])]), both, rtol=0, atol=1e-5)
    torch.testing.assert_close(final([0, 1], batch_size=1), both, rtol=0, atol=1e-5)
    with pytest.raises(OptionError, match="views_per_step=0; give 1 or more"):
        last(
            ascend(
                classifier,
                class_score(classifier, Target.of(1)),
                start,
                steps=1,
                streams=Streams.of(0, "ab"),
                views_per_step=0,
            )
        )


class _Residual(nn.Module):
    """Two blocks that add to what they were given, one of them in place, and one with a projection past itself."""

    def __init__(self, branch: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.third, self.past = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (x + self.branch(self.first(x))).relu()
        out = self.branch(self.second(x))
        out += x
        return self.head((self.third(out) + self.past(out)).relu())


def test_gradients_through_residual_branches_are_scaled() -> None:
    preprocess = Preprocess((8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    classifier = Classifier(_Residual(lambda branch: branch).eval(), preprocess)
    # The same network, whose branches let back a third of a gradient and keep their value.
    damped = Classifier(_Residual(lambda branch: branch / 3 + (branch * 2 / 3).detach()).eval(), preprocess)
    start = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, network, residual in (("plain", classifier, 1.0), ("scaled", classifier, 1 / 3), ("wanted", damped, 1.0)):
        run = ascend(
            network,
            class_score(network, Target.of(1)),
            start,
            steps=1,
            streams=Streams.of(0, ["a", "b"]),
            rate=1.0,
            residual=residual,
        )
        found[name] = last(run).images - start
    torch.testing.assert_close(found["scaled"], found["wanted"], rtol=1e-4, atol=1e-7)
    assert float((found["plain"] - found["wanted"]).abs().max() / found["wanted"].abs().max()) > 0.1
    assert not any(module._forward_hooks for module in classifier.module.modules())


class _ShortOfMemory(nn.Sequential):
    """A network whose machine has room for two images at a time."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(images)


@pytest.mark.parametrize(("count", "views_per_step"), [(5, 1), (5, 3), (1, 4)])
def test_batches_are_halved_where_memory_runs_out(count: int, views_per_step: int) -> None:
    layers = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    roomy, short = Classifier(nn.Sequential(*layers).eval()), Classifier(_ShortOfMemory(*layers).eval())
    wanted, got = (
        last(
            ascend(
                network,
                class_score(network, Target.of(1)),
                torch.full((count, 3, 8, 8), 0.5),
                steps=2,
                streams=Streams.of(0, list("abcde")[:count]),
                rate=0.1,
                augmentations=[Noise(0.2)],
                views_per_step=views_per_step,
            )
        )
        for network in (roomy, short)
    )
    torch.testing.assert_close(got.images, wanted.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.logits, wanted.logits, rtol=0, atol=1e-5)


def test_looks_seen_together_give_each_objective_its_own_layers() -> None:
    classifier, found = tiny(), []
    start = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    objective = objectives.channel("0", 1) - 0.5 * objectives.energy("0") + class_score(classifier, Target.of([1, 2]))
    for batch_size in (2, 4, 8):  # one, two and three views at once
        run = ascend(
            classifier,
            objective,
            start,
            steps=1,
            streams=Streams.of(0, ["a", "b"]),
            augmentations=[Affine(20.0, (0.7, 1.4), 3.0)],
            views_per_step=3,
            rate=1.0,
            direction=[unit_rms()],
            batch_size=batch_size,
        )
        found.append(last(run))
    for other in found[1:]:
        torch.testing.assert_close(other.value, found[0].value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other.images, found[0].images, rtol=0, atol=1e-4)
