"""phosphene evaluate craft: which concepts are a class's pictures made of, and what does each count?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, command
from phosphene.cli.concepts import SpokenFor, one_of
from phosphene.cli.evaluate import evaluate
from phosphene.cli.explain import LayerOption, Resume
from phosphene.cli.faithfulness import Limit, Pictures
from phosphene.evaluation.craft_options import CraftOptions

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions
    from phosphene.targets import Target

_OPTIONS = {
    name: (Annotated[one.type, typer.Option(help=one.doc)], one.default)
    for name, one in CraftOptions.declared().items()
}


@command(
    evaluate,
    "craft",
    shared=_OPTIONS,
    writes="a chart, crops and maps of each concept, concepts.safetensors and report.html",
    examples=("--images zebras/ --class zebra", "--images in/ --unit 4=2 --concepts 5 --crops 20"),
)
def craft(
    common: CommonOptions,
    options: Mapping[str, Any],
    images: Pictures,
    class_: SpokenFor = None,
    target: Target | None = None,
    layer: LayerOption = None,
    limit: Limit = 50,
    resume: Resume = False,
) -> Answer:
    """Find the concepts that a class's pictures are made of, and how much the class hangs on each (CRAFT)."""
    from phosphene.runs.craft import find_concepts

    goal = one_of(class_, target)
    with cancelled_by_interrupt(common.cancel):
        answer = find_concepts(images, common, target=goal, layer=layer, limit=limit, resume=resume, **options)
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
