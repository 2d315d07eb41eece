"""What judges read in impressions, by source, recipe and seed, as one table.

`python -m benchmarks.impressions_table --judge embedded:lite2 --judge FILE.py:NAME --out FOLDER` draws the development
classes of the gallery by each recipe with each seed, and pairs of random classes by recipes that fuse. Each row is
printed and kept in FOLDER/rows.jsonl as soon as it is there, with its sheet of pictures beside it; the same command
goes on with the rows that are missing, and ends with the table over all seeds.

A judge of the source's name is left out. `natural` is the share of pictures whose object covers .15 to .7 of the frame,
`one` that with one object, both by the class activation map of the judge that `--map` names; `even` is the share in
which the source gives no class more than .6.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from phosphene.classifier import Classifier
from phosphene.evaluation.impressions import ImpressionScores, measure_impressions
from phosphene.images import to_pil
from phosphene.registry import entry, parse_spec
from phosphene.render import contact_sheet
from phosphene.runtime import Prepared, prepare
from phosphene.targets import Target
from phosphene.tasks.impress import random_pairs
from phosphene.tasks.impressions import Job
from phosphene.zoo import load_classifier

CLASSES = Path(__file__).parent.parent / "docs" / "gallery" / "classes.txt"
NATURAL = (0.15, 0.7)

Row = dict[str, Any]


def jobs(classifier: Prepared, recipe: str, seed: int, classes: Sequence[str], pairs: Sequence[int]) -> list[Job]:
    """A picture of each class; by a recipe that fuses, of random pairs, `pairs` their number and their seed."""
    if entry("recipe", parse_spec(recipe, "recipe").name).traits.get("groups"):
        number, drawn_from = pairs
        every = len(classifier.labels) or classifier.layers[-1].shape[-1]
        return [Job(Target.of(pair), seed) for pair in random_pairs(every, number, drawn_from)]
    return [Job(Target.of(classifier.labels.find(name)), seed) for name in classes]


def figures(found: ImpressionScores, map_judge: str) -> Row:
    """The figures of a row: means over its pictures.

    Example:
        >>> figures(ImpressionScores("sci"), "MobileNetV2")
        {'images': 0, 'even': None, 'judges': {}, 'natural': None, 'one': None, 'seconds': None}
    """
    judges = {}
    coverage: list[float] = []
    counts: list[int] = []
    for index in range(max(map(len, found.judged), default=0)):
        read = found.read(index)
        judges[read[0].model] = {
            "probability": fmean(one.probability for one in read),
            "top1": fmean(one.top1 for one in read),
            "top5": fmean(one.top5 for one in read),
        }
        if read[0].model == map_judge:
            coverage = [one.coverage for one in read if one.coverage is not None]
            counts = [one.object_count for one in read if one.object_count is not None]
    return {
        "images": len(found.jobs),
        "even": _mean([max(share.probability for share in one.classes) <= 0.6 for one in found.own]),
        "judges": judges,
        "natural": _mean([NATURAL[0] <= value <= NATURAL[1] for value in coverage]),
        "one": _mean([count == 1 for count in counts]),
        "seconds": _mean(found.seconds),
    }


def same_question(row: Row, other: Row) -> bool:
    """Whether two rows are of the same source, recipe, pictures and judges; their seeds may differ."""
    return _question(row) == _question(other)


def _question(row: Row) -> tuple[object, ...]:
    return row["source"], row["recipe"], tuple(row.get("asked", ())), tuple(row["judges"]), row.get("batch_size")


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """The mean of the rows of each source and recipe, in their order.

    Example:
        >>> rows = [{"source": "a", "recipe": "sci", "seed": seed, "images": 2, "judges": {}, "one": one}
        ...         for seed, one in ((0, 0.5), (1, 1.0))]
        >>> over_seeds(rows)
        [{'source': 'a', 'recipe': 'sci', 'seed': '0, 1', 'images': 4, 'judges': {}, 'one': 0.75}]
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_question(row), []).append(row)
    return [_averaged(group) for group in groups.values()]


def _averaged(rows: Sequence[Row]) -> Row:
    first = rows[0]
    means = {
        name: _mean([row[name] for row in rows if row[name] is not None])
        for name in ("even", "natural", "one", "seconds")
        if name in first
    }
    judges = {
        judge: {name: fmean(row["judges"][judge][name] for row in rows) for name in read}
        for judge, read in first["judges"].items()
    }
    seeds = ", ".join(str(row["seed"]) for row in rows)
    return {**first, "seed": seeds, "images": sum(row["images"] for row in rows), "judges": judges, **means}


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown: `top-1 / p` of each judge; `both in five / p` where classes are fused."""
    judges = list(dict.fromkeys(judge for row in rows for judge in row["judges"]))
    head = ["source", "recipe", "seed", "images", *judges, "natural", "one", "even", "s each"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        read = [row["judges"].get(judge) for judge in judges]
        first = "top5" if row["fused"] else "top1"
        lines.append(
            [
                row["source"],
                row["recipe"],
                str(row["seed"]),
                str(row["images"]),
                *("its maker" if one is None else f"{one[first]:.2f} / {one['probability']:.2f}" for one in read),
                *(_shown(row[name]) for name in ("natural", "one")),
                _shown(row["even"] if row["fused"] else None),
                _shown(row["seconds"], 1),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _shown(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def sheet(classifier: Classifier, found: ImpressionScores, path: Path) -> None:
    """The pictures with what each judge gives the classes, a star where its best class is one of them."""
    lines = []
    for job, judged in zip(found.jobs, found.judged, strict=True):
        names = " + ".join(classifier.labels[index] for index in job.target.classes)
        shares = [
            "+".join(f"{share.probability:.2f}" for share in one.classes) + "*" * one.top1
            for one in judged
            if one is not None
        ]
        lines.append(f"{names[:34]}\n{'  '.join(shares)}")
    contact_sheet([to_pil(image) for image in found.images], lines, columns=6, cell=224).save(path)


def main() -> None:
    """Draw, read and print row by row; the table over the seeds at the end."""
    command = argparse.ArgumentParser(
        prog="python -m benchmarks.impressions_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--source", action="append", metavar="SPEC", help="a classifier; may repeat (embedded)")
    command.add_argument("--recipe", action="append", metavar="SPEC", help="may repeat (class_impression, sci)")
    command.add_argument("--seed", action="append", type=int, help="may repeat (0, 1, 2)")
    command.add_argument("--judge", action="append", metavar="SPEC", help="may repeat (embedded:lite2)")
    command.add_argument("--map", default="MobileNetV2", metavar="NAME", help="judge whose maps say how many objects")
    command.add_argument("--classes", type=Path, default=CLASSES, help="a file with a class a line")
    command.add_argument("--pairs", type=int, nargs=2, default=(24, 0), metavar=("NUMBER", "SEED"))
    command.add_argument("--batch-size", type=int, help="pictures drawn side by side; 1 as a class by itself is drawn")
    command.add_argument("--precision", default="fast", choices=["fast", "exact"])
    command.add_argument("--out", type=Path, required=True, help="a folder for rows.jsonl and the sheets")
    given = command.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "rows.jsonl"
    rows: list[Row] = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    judges = [load_classifier(spec) for spec in given.judge or ["embedded:lite2"]]
    classes = given.classes.read_text(encoding="utf-8").splitlines()
    for spec in given.source or ["embedded"]:
        source = prepare(load_classifier(spec), precision=given.precision)
        others = [judge for judge in judges if judge.name != source.name]
        for recipe in given.recipe or ["class_impression", "sci"]:
            for seed in given.seed or [0, 1, 2]:
                asked = jobs(source, recipe, seed, classes, given.pairs)
                row: Row = {"source": source.name, "recipe": recipe, "seed": seed}
                row |= {"asked": [job.name for job in asked], "judges": dict.fromkeys(judge.name for judge in others)}
                row |= {} if given.batch_size is None else {"batch_size": given.batch_size}
                if any(seed == old["seed"] and same_question(row, old) for old in rows):
                    continue
                found = measure_impressions(source, asked, recipe, others, batch_size=given.batch_size)
                row |= {"fused": len(asked[0].target.classes) > 1, **figures(found, given.map)}
                rows.append(row)
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                name = re.sub(r"[^\w.-]+", "-", f"{source.name}-{recipe}-seed{seed}")
                name += "" if given.batch_size is None else f"-by-{given.batch_size}"
                sheet(source, found, given.out / f"{name}.png")
                print(table([row]).splitlines()[-1], flush=True)
    print()
    print(table(over_seeds(rows)))


if __name__ == "__main__":
    main()
