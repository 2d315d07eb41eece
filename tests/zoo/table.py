"""Measures which method works on which network, task by task, and writes the tables in docs/zoo.md.

python -m tests.zoo.table                       all tasks
python -m tests.zoo.table segmentation ...      some of them
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from phosphene.errors import ModelError, OptionError
from phosphene.graph import spatial_size
from phosphene.registry import entry
from phosphene.runtime import prepare
from phosphene.zoo import load_classifier
from tests.contract import checks
from tests.zoo.networks import SPECS
from tests.zoo.page import equal_to, replace
from tests.zoo.tasks import TASKS, image_for, made

# Few windows and channels, and enough samples that LIME's lasso leaves a weight.
_OPTIONS: dict[str, dict[str, Any]] = {
    "occlusion": {"window": (24, 24), "stride": (24, 24)},
    "score_cam": {"channels": 16},
    "captum:lime": {"samples": 40},
}


@dataclass(frozen=True)
class Outcome:
    """What came of one method on one network: "works", "blank" or "refused", and the reason."""

    word: str
    reason: str = ""


def outcome(method: str, task: str, network: str) -> Outcome:
    """One method on one small network with random weights."""
    classifier = made(task, network)
    images = image_for(classifier)
    spec = checks.quick_spec(method, **_OPTIONS.get(method, {}))
    try:
        result = checks.explain(spec, classifier, images, TASKS[task].target(classifier, images))
    except (ModelError, OptionError) as error:
        return Outcome("refused", str(error))
    return Outcome("blank", result.problems[0]) if result.problems[0] else Outcome("works")


def default_layers() -> list[str]:
    """A line per network: the layer looked at by default and its grid, at the published size."""
    lines = ["| network | spec | default layer | its output | places |", "|---|---|---|---|---|"]
    for network, spec in SPECS.items():
        prepared = prepare(load_classifier(spec, weights="random"))
        shape = next(layer.shape for layer in prepared.layers if layer.name == prepared.default_layer)
        rows, columns = spatial_size(shape, prepared.preprocess.size) or (0, 0)
        size = " x ".join(map(str, shape))
        lines.append(f"| {network} | `{spec}` | `{prepared.default_layer}` | {size} | {rows} x {columns} |")
    return lines


def table(task: str) -> list[str]:
    """The table of methods and networks of a task, and below it the reasons of the refusals."""
    names = list(TASKS[task].networks)
    lines = ["| method | " + " | ".join([*names, "equal to"]) + " |", "|---|" + "---|" * (len(names) + 1)]
    reasons: dict[str, int] = {}
    for method in checks.method_names():
        cells = []
        for network in names:
            found = outcome(method, task, network)
            reason = _general(found.reason, made(task, network).name)
            cells.append(found.word + (f" ({reasons.setdefault(reason, len(reasons) + 1)})" if reason else ""))
            print(task, method, network, found, flush=True)
        title = f"{entry('attribution', method).title} `{method}`"
        lines.append(f"| {' | '.join([title, *cells, equal_to(method, task)])} |")
    return [*lines, "", *(f"{number}. {reason}" for reason, number in reasons.items())]


def _general(reason: str, network: str) -> str:
    """A reason without the names of layer and network and without numbers of its own, so that it is listed once."""
    reason = re.sub(r"\blayer '?[\w.]+'?", "layer '...'", reason)
    reason = re.sub(r"score \([-\d.e+]+\)", "score", reason)
    reason = re.sub(r"for the (object|region|similar) .* use", "for another target use", reason)
    return re.sub(rf"{re.escape(network)}\b", "the network", reason)


def write(parts: list[str]) -> None:
    """Measure these parts anew and put them into docs/zoo.md."""
    for part in parts:
        replace(part, default_layers() if part == "layers" else table(part))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    write(sys.argv[1:] or [*TASKS, "layers"])
