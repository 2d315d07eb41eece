"""impress and fuse: a classifier alone in, images that it made out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.devices import clock
from phosphene.errors import CancelledError, OptionError
from phosphene.labels import class_list
from phosphene.registry import Entry, Spec, entry, make_spec, parse_spec
from phosphene.runtime import Prepared, plain_mode, prepare
from phosphene.runtime.prepare import Precision
from phosphene.synthesis.ascent import Step
from phosphene.synthesis.staged import DrawingOptions
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target, class_target
from phosphene.tasks.notebook import told
from phosphene.types import Impression, Results, seed_number, whole_number
from phosphene.zoo import load_classifier

# Called with (image-steps done, image-steps in all, what is being done).
Progress = Callable[[int, int, str], None]
# Called after each step with what it gave: the images on their way.
Watch = Callable[[Step], None]

# Images made side by side: as many as one pass of the network takes at its fastest.
_CPU_BATCH = 8
_GPU_BATCH = 64


@dataclass(frozen=True)
class Job:
    """One image to be made.

    Args:
        target: one class, or a unit; of a fused image all its classes.
        seed: of its random numbers.
    """

    target: Target
    seed: int = 0

    @property
    def name(self) -> str:
        """What names its random numbers: the target, whatever else is made beside it."""
        return str(self.target)


def impress(
    classifier: Classifier | nn.Module | str,
    target: Target | int | str | Sequence[int | str],
    recipe: str | Spec = "sci",
    *,
    preset: str | None = None,
    steps: int | None = None,
    count: int = 1,
    frames: int = 0,
    precision: Precision | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Results[Impression]:
    """What the classifier remembers of classes, drawn from it alone: one image per class and seed.

    Args:
        classifier: a Classifier, a network, or a spec for load_classifier such as "embedded".
        target: a class (index, WordNet id or name), several, or a Target; a Target may hold a unit.
        recipe: a recipe spec such as "sci:radius=0.3".
        preset: "best" or "paper"; None for the recipe's own.
        steps: number of steps; None for the preset's.
        count: images per class, with seeds `seed`, `seed` + 1 ...
        frames: keep about so many frames of each image on its way.
        precision: "exact" or "fast".
        seed: of the random numbers of each image.
        batch_size: images made side by side; None chooses.
        progress: called after each step with (image-steps done, in all, a line about it); None shows a bar in
            notebooks.

    Returns:
        Impressions, class by class, each with all its seeds.

    Raises:
        NotFoundError: for an unknown recipe or class.
        OptionError: for a recipe that fuses classes, or a wrong option.
        NumericalError: if a gradient is zero, NaN or infinite.

    Example:
        >>> image = impress("embedded", "ladybug", steps=2)[0]
        >>> image.image.shape, image.target.classes, image.spec
        (torch.Size([3, 224, 224]), (301,), 'sci:steps=2')
    """
    prepared = prepare(load_classifier(classifier), precision=precision)
    spec, seed = configured(recipe, preset, steps), seed_number(seed)
    jobs = _jobs(single_targets(prepared, target), count, seed)
    return Results(synthesize(prepared, jobs, spec, frames=frames, batch_size=batch_size, progress=told(progress)))


def fuse(
    classifier: Classifier | nn.Module | str,
    groups: Sequence[int | str] | Sequence[Sequence[int | str]],
    recipe: str | Spec = "fuse",
    *,
    preset: str | None = None,
    steps: int | None = None,
    count: int = 1,
    frames: int = 0,
    precision: Precision | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Results[Impression]:
    """Images that are of several classes at once, and of none for sure.

    Args:
        classifier: a Classifier, a network, or a spec for load_classifier.
        groups: two or more classes to fuse, or several such groups.
        recipe: a recipe spec such as "fuse:even=0.3".
        preset: "best" or "paper"; None for the recipe's own.
        steps: number of steps; None for the preset's.
        count: images per group, with seeds `seed`, `seed` + 1 ...
        frames: keep about so many frames of each image on its way.
        precision: "exact" or "fast".
        seed: of the random numbers of each image.
        batch_size: images made side by side; None chooses.
        progress: called after each step with (image-steps done, in all, a line about it); None shows a bar in
            notebooks.

    Returns:
        Impressions, group by group.

    Raises:
        NotFoundError: for an unknown recipe or class.
        OptionError: for a group of fewer than two different classes.

    Example:
        >>> fuse("embedded", ["hen", "tench"], steps=3)[0].target.classes
        (8, 0)
    """
    prepared = prepare(load_classifier(classifier), precision=precision)
    seed = seed_number(seed)
    plain = groups.tolist() if hasattr(groups, "tolist") else groups
    if isinstance(plain, Mapping) or not isinstance(plain, Iterable):
        raise OptionError(f"fuse: {type(groups).__name__} holds no classes; give two or more")
    given: list[Any] = [plain] if isinstance(plain, str) else list(plain)
    nested = [class_list(group) for group in given]
    if not any(isinstance(group, list | tuple) for group in given):
        nested = [[name for group in nested for name in group]]
    targets = [class_target(group, prepared.labels) for group in nested]
    jobs = _jobs(targets, count, seed)
    spec = configured(recipe, preset, steps)
    return Results(synthesize(prepared, jobs, spec, frames=frames, batch_size=batch_size, progress=told(progress)))


def _jobs(targets: Sequence[Target], count: int, seed: int) -> list[Job]:
    """Each target with one seed after another."""
    seeds = range(seed, seed + whole_number(count, "count"))
    return [Job(target, each) for target in targets for each in seeds]


def configured(recipe: str | Spec, preset: str | None, steps: int | None, **options: Any) -> Spec:
    """The recipe with preset, steps and other options set, where they are given.

    Raises:
        OptionError: if one is given twice with different values.
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int)):
        raise OptionError(f"steps={steps!r} must be a whole number, or None for the preset's")
    spec = parse_spec(recipe, "recipe")
    given = {name: value for name, value in {"preset": preset, "steps": steps, **options}.items() if value is not None}
    for name, value in given.items():
        if spec.keywords.get(name, value) != value:
            raise OptionError(f"{name}={value} beside {spec}; give it once")
    found = entry("recipe", spec.name)
    if found.family != "synthesis":
        raise OptionError(f"{spec.name} draws what a layer responds to in a folder of pictures; use features")
    merged = {**spec.keywords, **given}
    if merged.get("preset", "") not in ("", *found.presets):
        raise OptionError(f"{spec.name} has no preset '{merged['preset']}'; choose {' or '.join(found.presets)}")
    spec = make_spec(spec.name, "recipe", **merged)
    found.configured(spec)  # refuses what does not fit before anything is made
    return spec


def single_targets(classifier: Prepared, target: Target | int | str | Sequence[int | str]) -> list[Target]:
    """One Target per image to be made.

    Raises:
        NotFoundError: for a class that does not exist.
    """
    found = target.found_in(classifier) if isinstance(target, Target) else class_target(target, classifier.labels)
    return found.singles()


def synthesize(
    classifier: Prepared,
    jobs: Sequence[Job],
    recipe: str | Spec,
    *,
    frames: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Iterator[Impression]:
    """The images of all jobs in order, each as soon as its batch is done.

    Where `progress` or `watch` asks for a stop (CancelledError), it yields what the batch under way looks like, marked
    as stopped, and then passes the error on.
    """
    spec = parse_spec(recipe, "recipe")
    _check_jobs(jobs, entry("recipe", spec.name))
    frames = whole_number(frames, "frames", 0)
    done = 0
    for batch in batched(jobs, classifier, batch_size):
        making = _Making(classifier, batch, spec, frames, len(jobs), done, progress, watch)
        yield from making.run()
        done += len(batch)


def batched(jobs: Sequence[Job], classifier: Prepared, batch_size: int | None = None) -> list[list[Job]]:
    """The jobs in the batches in which they are made: neighbours of one kind, the same whatever is left to do."""
    usual = _CPU_BATCH if classifier.device.type == "cpu" else _GPU_BATCH
    limit = usual if batch_size is None else whole_number(batch_size, "batch_size")
    batches: list[list[Job]] = []
    for job in jobs:
        if batches and len(batches[-1]) < limit and batches[-1][0].target.alike() == job.target.alike():
            batches[-1].append(job)
        else:
            batches.append([job])
    return batches


def _check_jobs(jobs: Sequence[Job], found: Entry) -> None:
    groups = bool(found.traits.get("groups"))
    for job in jobs:
        if not groups and len(job.target.classes) > 1:
            raise OptionError(f"{found.name} makes images of one class; to fuse {job.name} use fuse")
        if groups and (given := len(job.target.classes)) < 2:
            raise OptionError(f"{found.name} needs two classes or more, got {given}; for one use impress")


@dataclass
class _Making:
    """One batch on its way."""

    classifier: Prepared
    jobs: list[Job]
    spec: Spec
    frames: int
    total: int
    before: int
    progress: Progress | None
    watch: Watch | None = None
    last: Step | None = None
    scores: list[Tensor] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)
    pictures: list[tuple[int, Tensor]] = field(default_factory=list)

    def run(self) -> Iterator[Impression]:
        """The impressions when all steps are done, or what there is of them when that is stopped."""
        begun, stopped = clock(self.classifier.device), None
        try:
            # (What a recipe makes between the steps goes into their gradients, as nothing made in inference mode does.)
            with plain_mode(self.classifier.device, gradients=False):
                for step in self._steps():
                    self._note(step)
        except CancelledError as stop:
            stopped = stop
        seconds = (clock(self.classifier.device) - begun) / len(self.jobs)
        if self.last is not None:
            if self.frames and self.pictures[-1][0] < self.last.index:
                self._keep(self.last)
            for index in range(len(self.jobs)):
                made = self._impression(index, self.last)
                yield replace(made, seconds=seconds, stopped=stopped is not None)
        if stopped is not None:
            raise stopped

    def _steps(self) -> Iterator[Step]:
        streams = Streams(tuple(job.seed for job in self.jobs), tuple(job.name for job in self.jobs))
        recipe = entry("recipe", self.spec.name)
        goal, options = self._goal(), recipe.configured(self.spec)
        if self.progress is not None and isinstance(options, DrawingOptions):
            options.apart(self.classifier, goal if isinstance(goal, Target) else None, self._company)
        steps: Iterator[Step] = recipe.function(self.classifier, goal, streams, options)
        return steps

    def _company(self, done: int, steps: int) -> None:
        if self.progress is not None:
            self.progress(done * len(self.jobs), self.total * steps, "companions of this network, drawn once")

    def _goal(self) -> Any:
        if entry("recipe", self.spec.name).traits.get("groups"):
            return [job.target.classes for job in self.jobs]
        targets = [job.target for job in self.jobs]
        return targets[0].joined(targets)

    def _note(self, step: Step) -> None:
        """Keep what the step shows, and say how far things are."""
        self.last = step
        self.scores.append(step.value)  # fetched when all is done: asking at each step makes a GPU wait
        shares = self._own_probabilities(step.logits)
        if shares is not None:
            self.probabilities.append(shares)
        if self.frames and (step.index == 1 or step.index % max(1, step.steps // self.frames) == 0):
            self._keep(step)
        if self.progress is not None:
            whole = self.total * step.steps
            done = min(whole, self.before * step.steps + step.index * len(self.jobs))
            self.progress(done, whole, self._line(step, shares))
        if self.watch is not None:
            self.watch(step)

    def _keep(self, step: Step) -> None:
        self.pictures.append((step.index, (step.images * 255).round().to(torch.uint8).cpu()))

    def _own_probabilities(self, logits: Tensor) -> Tensor | None:
        """(N, classes) of the target's classes at this step's augmented image; None for a target without classes."""
        if not self.jobs[0].target.classes or self.classifier.head == "score":
            return None
        classes = torch.tensor([job.target.classes for job in self.jobs], device=logits.device)
        return self.classifier.probabilities(logits).gather(1, classes)

    def _line(self, step: Step, shares: Tensor | None) -> str:
        value = f"p {shares.mean():.2f}" if shares is not None else f"value {step.value.mean():.3g}"
        return f"{step.stage}, {value}"

    def _impression(self, index: int, last: Step) -> Impression:
        job = self.jobs[index]
        frames = torch.stack([images[index] for _, images in self.pictures]) if self.pictures else None
        return Impression(
            image=last.images[index].cpu(),
            target=job.target,
            spec=str(self.spec),
            preset=_preset_of(self.spec),
            seed=job.seed,
            steps=last.index,
            scores=tuple(torch.stack([values[index] for values in self.scores]).tolist()),
            probabilities=tuple(map(tuple, _rows_of(self.probabilities, index))),
            frames=frames,
            frame_steps=tuple(number for number, _ in self.pictures),
            extras={name: values[index].cpu() for name, values in last.extras.items()},
            label=_label(self.classifier, job.target),
        )


def _label(classifier: Prepared, target: Target) -> str:
    """What an image was made for, by name."""
    return " + ".join(classifier.labels[index] for index in target.classes) or target.label(classifier.labels)


def _preset_of(spec: Spec) -> str:
    return str(spec.keywords.get("preset", next(iter(entry("recipe", spec.name).presets), "")))


def _rows_of(steps: Sequence[Tensor], index: int) -> list[list[float]]:
    """One image's row of each step's values (N, k), fetched at once."""
    return torch.stack([values[index] for values in steps]).tolist() if steps else []
