"""What judges read in impressions that lucent, Horama and phosphene draw from one network in one size.

`python -m benchmarks.drawn_by_others --judge embedded:lite2 --judge FILE.py:NAME --out FOLDER` draws each class by each
maker, prints a table of what judges read, with the CPU seconds of a picture, and leaves FOLDER/sheet.png, a row for
each maker. Pictures are kept in FOLDER; the same command draws those that are missing.

lucent has its own parametrization, moves, Adam and 512 steps. Horama's `fourier` has its own parametrization, crops,
noise and NAdam; `--horama-steps` and `--horama-size` are its own 1000 and 1280 unless told otherwise, and its picture
is shown as its own `plots` show it. Its `maco` downloads a spectrum at first use and is not drawn. Both are told what
values the network is fed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.impressions_table import CLASSES, figures, table
from benchmarks.works.networks import Normalized
from phosphene.classifier import Classifier
from phosphene.evaluation.impressions import ImpressionScores
from phosphene.images import to_pil
from phosphene.render import contact_sheet
from phosphene.targets import Target
from phosphene.tasks.impressions import Job, impress
from phosphene.tasks.read_impressions import judge_impressions
from phosphene.types import Impression
from phosphene.zoo import load_classifier

SIDE = 224

Maker = Callable[[int], Tensor]
"""A class -> its picture (3, H, W) in [0, 1]."""


def phosphene_maker(classifier: Classifier, recipe: str) -> Maker:
    """By a recipe of ours, in the precision that synthesis has where nobody says another."""
    return lambda index: impress(classifier, index, recipe)[0].image


def lucent_maker(classifier: Classifier) -> Maker:
    """By lucent as it comes, but for the side of its picture."""
    from lucent.optvis import objectives, param, render

    network = Normalized(classifier).eval()
    last = list(network.network.named_modules())[-1][0].replace(".", "_")

    def draw(index: int) -> Tensor:
        found = render.render_vis(
            network,
            objectives.channel(f"network_{last}", index),
            lambda: param.image(SIDE),
            preprocess=False,
            show_image=False,
            progress=False,
        )
        return torch.from_numpy(np.ascontiguousarray(found[-1][0])).movedim(-1, 0)

    return draw


def horama_maker(classifier: Classifier, steps: int, size: int) -> Maker:
    """By Horama's Fourier parametrization, in the values that the network is fed."""
    import horama
    from horama.plots import clip_percentile, normalize

    ends = classifier.preprocess.normalize(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1))

    def draw(index: int) -> Tensor:
        found, _ = horama.fourier(
            lambda images: classifier.module(images)[:, index].mean(),
            total_steps=steps,
            image_size=size,
            model_input_size=SIDE,
            values_range=(float(ends.min()), float(ends.max())),
            device="cpu",
        )
        return torch.from_numpy(normalize(clip_percentile(found.detach().numpy(), 1.0)))

    return draw


def drawn(name: str, maker: Maker, classes: Sequence[int], seed: int, folder: Path) -> tuple[list[Tensor], list[float]]:
    """Pictures and CPU seconds of each; what lies in the folder already is read from there."""
    images, seconds = [], []
    for index in classes:
        path = folder / f"{name}-{index}-seed{seed}.png"
        if not path.exists():
            torch.manual_seed(seed)
            np.random.seed(seed)  # (lucent's moves are drawn by it)
            begin = time.process_time()
            picture = to_pil(maker(index))
            path.with_suffix(".json").write_text(json.dumps(time.process_time() - begin))
            picture.save(path)
            print(path.name, flush=True)
        images.append(torch.from_numpy(np.array(Image.open(path))).movedim(-1, 0).float() / 255)
        seconds.append(float(path.with_suffix(".json").read_text()))
    return images, seconds


def main() -> None:
    """Draw, read, print, and put everything on one sheet."""
    command = argparse.ArgumentParser(
        prog="python -m benchmarks.drawn_by_others",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--source", default="embedded", metavar="SPEC")
    command.add_argument("--judge", action="append", metavar="SPEC", help="may repeat (embedded:lite2)")
    command.add_argument("--recipe", action="append", metavar="SPEC", help="ours; may repeat (sci, class_impression)")
    command.add_argument("--classes", type=Path, default=CLASSES, help="a file with a class a line")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--horama-steps", type=int, default=1000)
    command.add_argument("--horama-size", type=int, default=1280)
    command.add_argument("--only", action="append", metavar="MAKER", help="may repeat: a recipe, lucent, horama")
    command.add_argument("--out", type=Path, required=True, help="a folder for the pictures and the sheet")
    given = command.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    source = load_classifier(given.source)
    judges = [load_classifier(spec) for spec in given.judge or ["embedded:lite2"]]
    names = given.classes.read_text(encoding="utf-8").split("\n")
    classes = [source.labels.find(name) for name in names if name]
    # Each has a network of its own: lucent leaves its hooks and what they saw on the one it drew from.
    makers: dict[str, Callable[[], Maker]] = {
        recipe: lambda recipe=recipe: phosphene_maker(load_classifier(given.source), recipe)  # type: ignore[misc]
        for recipe in given.recipe or ["sci", "class_impression"]
    }
    makers |= {
        "lucent": lambda: lucent_maker(load_classifier(given.source)),
        "horama": lambda: horama_maker(load_classifier(given.source), given.horama_steps, given.horama_size),
    }
    rows, tiles, lines = [], [], []
    for name in given.only or makers:
        images, seconds = drawn(name, makers[name](), classes, given.seed, given.out)
        found = ImpressionScores(name)
        for index, image in zip(classes, images, strict=True):
            made = Impression(image, Target.of(index), name, "", given.seed, 0)
            found.jobs.append(Job(made.target, given.seed))
            found.judged.append([judge_impressions(judge, [made], source, objects=True)[0] for judge in judges])
            tiles.append(to_pil(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
            read = [one for one in found.judged[-1] if one is not None]
            marks = "  ".join(f"{one.probability:.2f}{'*' * one.top1}" for one in read)
            lines.append(f"{name}: {source.labels[index]}\n{marks}")
        found.images, found.seconds = images, seconds
        rows.append({"source": source.name, "recipe": name, "seed": given.seed, "fused": False})
        rows[-1] |= figures(found, "MobileNetV2")
    contact_sheet(tiles, lines, columns=len(classes), cell=SIDE).save(given.out / "sheet.png")
    print(table(rows))


if __name__ == "__main__":
    main()
