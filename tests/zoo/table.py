"""Measures which method works on which architecture and writes the table in docs/zoo.md.

python -m tests.zoo.table
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phosphene.errors import ModelError
from phosphene.graph import spatial_size
from phosphene.registry import entry
from phosphene.runtime import prepare
from phosphene.targets import Target
from phosphene.zoo import load_classifier
from tests.contract import checks
from tests.zoo.networks import SIZE, SPECS, classifier

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
BEGIN, END = "<!-- measured: python -m tests.zoo.table -->", "<!-- end of what was measured -->"


# Few windows, and enough samples that LIME's lasso leaves a weight.
_OPTIONS: dict[str, dict[str, Any]] = {
    "occlusion": {"window": (24, 24), "stride": (24, 24)},
    "captum:lime": {"samples": 40},
}


@dataclass(frozen=True)
class Outcome:
    """What came of one method on one network: "works", "blank" or "refused", and the reason."""

    word: str
    reason: str = ""


def outcome(method: str, network: str) -> Outcome:
    """One method on one network of 64 pixels with random weights."""
    images = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    spec = checks.quick_spec(method, **_OPTIONS.get(method, {}))
    try:
        result = checks.explain(spec, classifier(network), images, Target.of(3))
    except ModelError as error:
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


def table() -> list[str]:
    """The table of methods and networks, and below it the reasons of the refusals."""
    lines = ["| method | " + " | ".join(SPECS) + " |", "|---|" + "---|" * len(SPECS)]
    reasons: dict[str, int] = {}
    for method in checks.method_names():
        cells = []
        for network in SPECS:
            found = outcome(method, network)
            number = f" ({reasons.setdefault(_general(found.reason), len(reasons) + 1)})" if found.reason else ""
            cells.append(found.word + number)
            print(method, network, found, flush=True)
        lines.append(f"| {entry('attribution', method).title} `{method}` | " + " | ".join(cells) + " |")
    return [*lines, "", *(f"{number}. {reason}" for reason, number in reasons.items())]


def _general(reason: str) -> str:
    """A reason without what differs from network to network, so that the same one is listed once."""
    reason = re.sub(r"\blayer '?[\w.]+'?", "layer '...'", reason)
    reason = re.sub(r"ends in '[^']*'", "ends in '...'", reason)
    for network in SPECS:
        reason = reason.replace(network, "the network")
    return reason


def write() -> None:
    """Replace what stands between the two marks of docs/zoo.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    measured = "\n".join(["", *table(), "", *default_layers(), ""])
    PAGE.write_text(f"{before}{BEGIN}\n{measured}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write()
