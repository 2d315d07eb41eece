"""The one loop that makes images: decode, augment, look, judge, turn the gradient into a direction, step, yield.

    decode parameters -> images -> augmentations -> network (captured layers) -> objective -> gradient
    -> direction rules (preconditioning, maps of step sizes, masks) -> optimizer -> after rules (priors, clipping)

Everything that a recipe chooses is an argument made of small functions; the loop knows no recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.errors import NumericalError, OptionError
from phosphene.graph import check_inside, residual_branches
from phosphene.hooks import scaled_gradients
from phosphene.runtime import Prepared, plain_mode, prepare
from phosphene.runtime.backward import gradients
from phosphene.runtime.micro_batches import usual_size
from phosphene.synthesis.augment import Augmentation, augmented
from phosphene.synthesis.objectives import Objective, StepOutputs
from phosphene.synthesis.parametrization import Parametrization, Pixel
from phosphene.synthesis.schedules import Schedule, as_schedule
from phosphene.synthesis.step_rules import StepRule, StepState, per_image
from phosphene.synthesis.streams import Draws, Streams

Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
Stop = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What one step gave.

    Args:
        index: how many steps are done; a recipe of several runs counts on.
        steps: how many there will be.
        images: (N, C, H, W) in [0, 1] after the step, detached.
        value: (N,) the objective at the augmented images before the step.
        logits: (N, K) the network's scores there.
        stage: which part of a recipe made it.
        extras: further pictures and numbers that a recipe wants shown, by name, one row per image.
    """

    index: int
    steps: int
    images: Tensor
    value: Tensor
    logits: Tensor
    stage: str = ""
    extras: dict[str, Tensor] = field(default_factory=dict)


def ascend(
    classifier: Classifier,
    objective: Objective,
    start: Tensor,
    *,
    steps: int,
    streams: Streams,
    rate: float | Schedule = 1.0,
    optimizer: Optimizer | None = None,
    parametrization: Parametrization | None = None,
    augmentations: Sequence[Augmentation] = (),
    direction: Sequence[StepRule] = (),
    after: Sequence[StepRule] = (),
    views_per_step: int = 1,
    residual: float = 1.0,
    stop: Stop | None = None,
    batch_size: int | None = None,
    stage: str = "",
) -> Iterator[Step]:
    """Images on their way up the objective: one Step after each step; stop iterating to stop.

    Each step is ``parameters += rate * direction``, or whatever `optimizer` makes of the direction.

    Args:
        classifier: the network whose objective is raised.
        objective: what is raised, per image.
        start: (N, C, H, W) images in [0, 1] to start from.
        steps: number of steps.
        streams: the images' random numbers; one stream per image.
        rate: step size, a number or a schedule; multiplies the direction.
        optimizer: makes a torch optimizer for the parameters; its own rate is replaced by `rate`. None: plain steps.
        parametrization: what the parameters are; None for pixels.
        augmentations: done to the images in turn before they go through the network.
        direction: rules that turn the gradient into the direction of the step, in turn.
        after: rules applied to the parameters after the step, in turn; clip pixels here.
        views_per_step: views of each image before a step, each augmented otherwise; the gradient is the mean of theirs.
            What is seen in only one view is left out, so other networks recognize the picture more readily.
        residual: what gradients that come through a residual branch are multiplied by, so that more goes past the
            branches; such gradients say more to other networks (wu2020). 1 changes nothing, nor is there anything to
            change where a network adds nothing to what it came from, or cannot be read.
        stop: logits (N, K) -> (N,) bool: images that are done and no longer change; the run ends when all are.
        batch_size: images per pass through the network; None chooses.
        stage: name of this part of a recipe.

    Yields:
        A Step after each step.

    Raises:
        NumericalError: if a gradient is NaN, infinite or zero everywhere; naming the image and the step.
        ResourceError: if there is no memory even for one image; batches are halved before.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> from phosphene.synthesis.objectives import class_score
        >>> from phosphene.synthesis.step_rules import clip
        >>> from phosphene.targets import Target
        >>> classifier = Classifier(net)
        >>> up = ascend(classifier, class_score(classifier, Target.of(1)), torch.full((1, 3, 2, 2), 0.5),
        ...             steps=3, streams=Streams.of(0, [1]), rate=0.1, after=[clip])
        >>> values = [step.value.item() for step in up]
        >>> values[0] < values[1] < values[2]
        True
    """
    prepared = prepare(classifier, keep=objective.layers).variant("steps")
    check_inside(prepared.network.module, prepared.name, "gradient")
    prepared.check_images(start)
    if len(streams) != len(start):
        raise OptionError(f"{len(streams)} random streams for {len(start)} images; give one for each")
    if steps < 0:
        raise OptionError(f"steps={steps}; give 0 or more")
    if views_per_step < 1:
        raise OptionError(f"views_per_step={views_per_step}; give 1 or more")
    if not 0 <= residual < math.inf:
        raise OptionError(f"residual={residual}; give 0 or more, 1 for plain gradients")
    parametrization, schedule = parametrization or Pixel(), as_schedule(rate)
    branches, image = _Branches.of(prepared, residual), start.shape[1:]
    with plain_mode(prepared.device, gradients=False):
        parameters = parametrization.encode(_own_copy(start, prepared.device))
        stepper = None if optimizer is None else optimizer([parameters])
        memory: dict[str, Tensor] = {}
        done = torch.zeros(len(start), dtype=torch.bool, device=prepared.device)
        watch = _Watch(streams, stage, prepared.device)
    for index in range(steps):
        with plain_mode(prepared.device, gradients=False):
            draws = streams.at(index).under(stage)
            one_pass = _Pass(
                prepared,
                objective,
                parametrization,
                augmentations,
                draws,
                steps,
                views_per_step,
                branches,
                batch_size,
                image,
            )
            value, logits, gradient = one_pass(parameters)
            watch.see(index, gradient, done)
            state = StepState(index, steps, parameters, gradient, draws, memory)
            done = done | stop(logits) if stop is not None else done
            before = parameters if stop is None else parameters.clone()
            _move(parameters, _in_turn(direction, gradient, state), stepper, schedule(index, steps))
            parameters.copy_(_in_turn(after, parameters, state))
            if before is not parameters:
                parameters.copy_(torch.where(per_image(done, parameters), before, parameters))
            images = parametrization.decode(parameters).detach().clone()
        yield Step(index + 1, steps, images, value, logits, stage)
        if stop is not None and bool(done.all()):
            break
    watch.ask()


def part_of(run: Iterator[Step], done: int, steps: int, **extras: Tensor) -> Iterator[Step]:
    """The steps of one run as part of a recipe of `steps` steps, of which `done` came before; with extras to show."""
    for step in run:
        yield replace(step, index=done + step.index, steps=steps, extras={**step.extras, **extras})


@dataclass(frozen=True)
class _Branches:
    """The residual branches of a network, and what gradients through them are multiplied by."""

    module: nn.Module
    layers: tuple[str, ...]
    factor: float

    @classmethod
    def of(cls, prepared: Prepared, factor: float) -> _Branches:
        traced = prepared.traced if factor != 1 else None
        return cls(prepared.module, () if traced is None else residual_branches(traced), factor)

    def scaled(self) -> AbstractContextManager[None]:
        return scaled_gradients(self.module, self.layers, self.factor)


@dataclass(frozen=True)
class _Pass:
    """One pass of the network over all views of all images, in micro-batches."""

    prepared: Prepared
    objective: Objective
    parametrization: Parametrization
    augmentations: Sequence[Augmentation]
    draws: Draws
    steps: int
    views_per_step: int
    branches: _Branches
    batch_size: int | None
    image: torch.Size

    def __call__(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(objective (N,), logits (N, K), gradient like the parameters)."""
        count = len(parameters)
        if count > 1:
            # As many as the largest pass has: what several views give is a sum, and cannot be compared by images.
            most = min(count, usual_size(self.batch_size, parameters.device))
            self.prepared.network.images_are_independent(self.image, most)
        parts = self.prepared.in_batches(
            lambda start, stop: self._rows(parameters, start, stop), count, self.batch_size, self.image, None
        )
        value, logits, gradient = (
            torch.cat(column) if len(column) > 1 else column[0] for column in zip(*parts, strict=True)
        )
        return value, logits, gradient

    def _rows(self, parameters: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same of some images: the mean over their views."""
        leaf = parameters[start:stop].detach().requires_grad_()
        parts = [self._view(leaf, start, replace(own, rows=(start, stop))) for own in self._draws()]
        value, logits, gradient = (sum(column) / len(parts) for column in zip(*parts, strict=True))
        return value, logits, gradient

    def _draws(self) -> Iterator[Draws]:
        yield self.draws
        for view in range(1, self.views_per_step):
            yield self.draws.under(f"look {view}")  # (another name would draw other numbers, and other pictures)

    def _view(self, leaf: Tensor, start: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """(objective, logits, gradient) of one view of each."""
        with self.prepared.passing(gradients=True):
            images = self.parametrization.decode(leaf)
            seen = augmented(images, self.augmentations, draws)
            seen = seen.contiguous(memory_format=self.prepared.first_look.memory_format)
            layouts = {layer: self.prepared.layout(layer) for layer in self.objective.layers}
            with self.prepared.capture(self.objective.layers) as found, self.branches.scaled():
                raw = self.prepared.run(self.prepared.module, seen)
                logits = self.prepared.read(raw, len(seen)).float()
                values = self.objective(
                    StepOutputs(logits, found, images, start, draws.step, self.steps, layouts, self.prepared, raw)
                )
                # While the layers are watched: what is checkpointed runs again on the way back, and has to run alike.
                (gradient,) = gradients(self.prepared, values, [leaf])
        gradient = torch.zeros_like(leaf) if gradient is None else gradient
        return values.detach().float(), logits.detach(), gradient.float().contiguous()


def _own_copy(images: Tensor, device: torch.device) -> Tensor:
    return images.detach().to(device, torch.float32, copy=True).contiguous()


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Adam, upwards; every pixel has a step size of its own, so images in a batch do not see each other."""
    return torch.optim.Adam(parameters, lr=1.0, maximize=True)


def _move(parameters: Tensor, direction: Tensor, stepper: torch.optim.Optimizer | None, rate: float) -> None:
    if stepper is None:  # (torch.optim.SGD would do the same, and load PyTorch's compiler first, for two seconds)
        parameters.add_(direction, alpha=rate)
        return
    for group in stepper.param_groups:
        group["lr"] = rate
    parameters.grad = direction
    stepper.step()
    parameters.grad = None


def _in_turn(rules: Sequence[StepRule], value: Tensor, state: StepState) -> Tensor:
    for rule in rules:
        value = rule(value, state)
    return value


class _Watch:
    """Refuses to go on along a gradient that is not one; images that are done may have any.

    To ask a GPU is to wait for it: there it is asked once in some steps, and says then which step it was.
    """

    def __init__(self, streams: Streams, stage: str, device: torch.device) -> None:
        self.streams, self.stage = streams, stage
        self._every = 1 if device.type == "cpu" else _ASK_EVERY
        self._seen: list[tuple[int, Tensor, Tensor]] = []

    def see(self, index: int, gradient: Tensor, done: Tensor) -> None:
        """The gradient (N, ...) of a step, and which images need none any more."""
        largest = gradient.flatten(1).abs().amax(dim=1)
        self._seen.append((index, largest, ~((largest > 0) & torch.isfinite(largest)) & ~done))
        if len(self._seen) >= self._every:
            self.ask()

    def ask(self) -> None:
        """Raise what there is to say about the steps since it was asked last."""
        seen, self._seen = self._seen, []
        if not seen or not bool(torch.stack([bad for *_, bad in seen]).any()):
            return
        for index, largest, bad in seen:
            if bool(bad.any()):
                row = int(bad.nonzero()[0, 0])
                raise _no_gradient(row, bool(largest[row] == 0), self.streams, index, self.stage)


# Steps between two questions to a GPU.
_ASK_EVERY = 16


def _no_gradient(row: int, zero: bool, streams: Streams, index: int, stage: str) -> NumericalError:
    where = f"target {streams.targets[row]}, seed {streams.seeds[row]}, step {index}" + (
        f" of {stage}" if stage else ""
    )
    if zero:
        return NumericalError(
            f"the gradient is zero everywhere ({where}): the objective does not change with the image there; "
            "start from another image or seed, raise the logit instead of a probability, or choose another unit, such "
            "as that of the layer before a ReLU"
        )
    return NumericalError(
        f"the gradient holds NaN or infinity ({where}): look for NaN among the network's weights or for an operation "
        "that overflows, or lower the rate"
    )
