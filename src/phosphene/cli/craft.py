"""phosphene evaluate craft: which concepts are a class's pictures made of, and what does each count?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from phosphene.cli.app import Answer, command
from phosphene.cli.concepts import SpokenFor, one_of
from phosphene.cli.evaluate import evaluate
from phosphene.cli.explain import LayerOption
from phosphene.cli.faithfulness import Limit, Pictures

if TYPE_CHECKING:
    from phosphene.runs.common import Common
    from phosphene.targets import Target


@command(
    evaluate,
    "craft",
    writes="a chart, crops and maps of each concept, concepts.safetensors and report.html",
    examples=("--images zebras/ --class zebra", "--images in/ --unit 4=2 --concepts 5 --crops 20"),
)
def craft(
    common: Common,
    images: Pictures,
    class_: SpokenFor = None,
    target: Target | None = None,
    layer: LayerOption = None,
    concepts: Annotated[int, typer.Option(help="How many concepts are found, 2 or more.")] = 10,
    crops: Annotated[int, typer.Option(help="Crops of each picture.")] = 10,
    size: Annotated[float, typer.Option(help="Side of a crop, as a part of what the network sees.")] = 1 / 3,
    designs: Annotated[int, typer.Option(help="Rows of masks for the importance; a power of two.")] = 32,
    limit: Limit = 50,
) -> Answer:
    """Find the concepts that a class's pictures are made of, and how much the class hangs on each (CRAFT)."""
    from phosphene.runs.craft import find_concepts

    answer = find_concepts(
        images,
        common,
        target=one_of(class_, target),
        layer=layer,
        concepts=concepts,
        crops=crops,
        size=size,
        designs=designs,
        limit=limit,
    )
    lines = [
        f"{answer['target']} at {answer['layer']}: score {answer['score']:.3g}, from the concepts alone "
        f"{answer['rebuilt_score']:.3g}",
        "concept  importance  spread  score without it",
    ]
    lines += [
        f"{row['concept']:7}  {row['importance']:10.2f}  {row['spread']:6.2f}  {-row['drop']:+16.2g}"
        for row in answer["rows"]
    ]
    lines += [f"note: {note}" for note in answer["notes"]]
    lines += [f"failed: {row['error']}" for row in answer["errors"]]
    return Answer(answer, "\n".join(lines), bool(answer["errors"]))
