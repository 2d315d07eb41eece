"""GT-known of every method on several networks, beside the centered box that needs none: a table that fills up.

python -m benchmarks.ground_truth_known --images DIR --boxes FILE --networks [NAME=]SPEC... [--methods all|SPEC...]

A cell is a method on a network over the first `--count` pictures. Measured cells are kept, one JSON line each, in
`cells.jsonl` in the folder `--out`; the same command again goes on with those that are missing. The table beside it,
`ground_truth_known.md`, is written anew after every cell. `locate` is what `phosphene locate` does by default.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import torch

from phosphene.classifier import Classifier
from phosphene.errors import InputError, OptionError, PhospheneError
from phosphene.evaluation.ground_truth import Truth, read_truth
from phosphene.evaluation.localization import Localization, localization
from phosphene.images import list_images
from phosphene.registry import entries, parse_spec
from phosphene.runtime import Prepared, prepare
from phosphene.tasks.objects import configured
from phosphene.zoo import load_classifier

LOCATE = "locate"
# Hundreds of passes a map: measured last, so that the rest of the table is there.
_SLOW = ("ablation_cam", "shapley_cam", "score_cam", "occlusion", "rise")


@dataclass(frozen=True)
class Network:
    """A column of the table.

    Args:
        name: above it.
        spec: for load_classifier.
    """

    name: str
    spec: str

    @classmethod
    def of(cls, text: str) -> Network:
        """From NAME=SPEC, or from a spec alone, which is then called by its last part.

        Example:
            >>> Network.of("SqueezeNet=nets/squeeze.py:classifier").name, Network.of("nets/squeeze.py:make").name
            ('SqueezeNet', 'squeeze.py:make')
        """
        name, equals, spec = text.partition("=")
        return cls(name, spec) if equals else cls(PurePath(text).name, text)


@dataclass(frozen=True)
class Cell:
    """A method on a network.

    Args:
        network: its spec.
        method: spec, or "locate".
        count: pictures asked for.
        segment: how maps are cut.
        boxes: file of the true boxes.
        status: "measured"; "refused" by an error that phosphene raises on purpose; "failed" by any other, which is
            tried again.
        gt_known: share of pictures whose box overlaps an instance by half.
        interval: its 95 % interval.
        centre: GT-known of the centered box of half the area on the same pictures.
        images: pictures measured.
        dead: maps that said nothing.
        seconds: an image.
        notes: what was said of maps, or why there are none.
    """

    network: str
    method: str
    count: int
    segment: str
    boxes: str
    status: str
    gt_known: float | None = None
    interval: tuple[float, float] | None = None
    centre: float | None = None
    images: int = 0
    dead: int = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What was asked for."""
        return self.network, self.method, self.count, self.segment, self.boxes

    @property
    def below(self) -> bool:
        """Whether a box that needs no network finds more objects."""
        return self.gt_known is not None and self.centre is not None and self.gt_known < self.centre


@dataclass(frozen=True)
class Asked:
    """What all cells have in common.

    Args:
        images: folder of pictures.
        boxes: file of the true boxes.
        count: pictures.
        segment: how maps are cut.
        seed: of methods that draw random numbers.
    """

    images: str
    boxes: str
    count: int
    segment: str = "graphcut"
    seed: int = 0

    def wanted(self, network: Network, method: str) -> dict[str, Any]:
        """The part of a cell that says what it is."""
        return {"network": network.spec, "method": method, "count": self.count, "segment": self.segment,
                "boxes": self.boxes}  # fmt: skip

    def truths(self, classifier: Classifier) -> list[Truth]:
        """The pictures that are measured."""
        return read_truth(self.boxes, list_images(self.images), classifier.labels, self.images)[: self.count]

    def cell(self, load: Callable[[str], Prepared], network: Network, method: str) -> Cell:
        """Measure a method on a network."""
        wanted = self.wanted(network, method)
        try:
            classifier = load(network.spec)
            way = configured("best", None if method == LOCATE else method, self.segment)  # type: ignore[arg-type]
            found = localization(classifier, self.truths(classifier), [way], seed=self.seed)
        except InputError:
            raise  # pictures or boxes: no cell could be measured
        except PhospheneError as error:
            return Cell(**wanted, status="refused", notes=(str(error),))
        except Exception as error:
            return Cell(**wanted, status="failed", notes=(f"{type(error).__name__}: {error}",))
        return measured(wanted, found)


def measured(wanted: dict[str, Any], found: Localization) -> Cell:
    """The cell of one way's measurements."""
    (way,) = found.rows
    row = way.row()
    return Cell(
        **wanted,
        status="measured",
        gt_known=way.gt_known,
        interval=row["gt_known_ci"],  # type: ignore[arg-type]
        centre=next(one.gt_known for one in found.baselines if one.name == "centre_box"),
        images=found.images,
        dead=way.dead,
        seconds=row["seconds_per_image"],  # type: ignore[arg-type]
        notes=tuple(row["notes"]),  # type: ignore[arg-type]
    )


def read_cells(place: Path) -> dict[tuple[object, ...], Cell]:
    """The cells that are known, by what was asked for; of one that is there twice the later."""
    lines = place.read_text(encoding="utf-8").splitlines() if place.exists() else []
    cells = [_cell(json.loads(line)) for line in lines if line.strip()]
    return {cell.key: cell for cell in cells}


def _cell(found: dict[str, Any]) -> Cell:
    interval = found["interval"]
    return Cell(**found | {"interval": interval and tuple(interval), "notes": tuple(found["notes"])})


def append_cell(place: Path, cell: Cell) -> None:
    """Write a cell behind the others."""
    with place.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(cell)) + "\n")


def own_methods() -> list[str]:
    """`locate` and every method of phosphene, slow ones last; those of other libraries have to be named."""
    names = [name for name in entries("attribution") if ":" not in name]
    return [LOCATE, *(name for name in names if name not in _SLOW), *(name for name in _SLOW if name in names)]


def chosen(methods: Sequence[str]) -> list[str]:
    """Specs as they are spelled, `all` in full, each once.

    Raises:
        OptionError: for a method that there is not.

    Example:
        >>> chosen(["cam", "occlusion:window=20", "cam"])
        ['cam', 'occlusion:window=20']
    """
    listed = [name for method in methods for name in (own_methods() if method == "all" else [method])]
    return list(dict.fromkeys(name if name == LOCATE else str(parse_spec(name)) for name in listed))


def table(cells: Iterable[Cell], networks: Sequence[Network], methods: Sequence[str]) -> str:
    """The table as a Markdown page: methods down, networks across, the centered box first."""
    found = {(cell.network, cell.method): cell for cell in cells}
    asked = [found[network.spec, method] for method in methods for network in networks
             if (network.spec, method) in found]  # fmt: skip
    lines = ["| method | " + " | ".join(network.name for network in networks) + " |"]
    lines += ["|---|" + "---|" * len(networks)]
    centres = (_centre(asked, network) for network in networks)
    lines += ["| *centered box of half the area* | " + " | ".join(centres) + " |"]
    for method in methods:
        row = (_shown(found.get((network.spec, method))) for network in networks)
        lines += [f"| `{method}` | " + " | ".join(row) + " |"]
    lines += ["", "GT-known with its 95 % interval. **Below** stands where the centered box, which needs no network,"]
    lines += ["finds more objects; refused where the method does not run on the network, for the reason below."]
    names = {network.spec: network.name for network in networks}
    said = [f"- `{cell.method}` on {names[cell.network]}: {note}" for cell in asked for note in _said(cell)]
    return "\n".join([*lines, *([""] if said else []), *said]) + "\n"


def _said(cell: Cell) -> list[str]:
    dead = [f"{cell.dead} of {cell.images} maps said nothing; they count as wrong"] if cell.dead else []
    failed = [cell.status] if cell.status != "measured" else []
    return [*dead, *(": ".join([*failed, note]) for note in cell.notes)]


def _centre(cells: Iterable[Cell], network: Network) -> str:
    found = {cell.centre for cell in cells if cell.network == network.spec and cell.centre is not None}
    return " or ".join(sorted(map(_figure, found)))


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.gt_known is None or cell.interval is None:
        return cell.status
    low, high = cell.interval
    return f"{_figure(cell.gt_known)} ({low:.2f} to {high:.2f}){' **below**' if cell.below else ''}"


def _figure(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def main() -> None:
    """Measure what is missing, keep it, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ground_truth_known",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of pictures")
    parser.add_argument("--boxes", required=True, metavar="FILE", help="their true boxes, as evaluate localization")
    parser.add_argument("--networks", nargs="+", default=["embedded"], metavar="SPEC",
                        help="SPEC or NAME=SPEC, as --model takes it (embedded)")  # fmt: skip
    parser.add_argument("--methods", nargs="+", default=["all"], metavar="SPEC", help="all (the default) or specs")
    parser.add_argument("--count", type=int, default=50, metavar="N", help="the first N pictures (50)")
    parser.add_argument("--segment", default="graphcut", choices=("graphcut", "threshold"), help="how maps are cut")
    parser.add_argument("--seed", type=int, default=0, help="of methods that draw random numbers (0)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="to compute with (1)")
    parser.add_argument("--out", type=Path, default=Path("phosphene-runs/ground_truth_known"), metavar="DIR")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks = [Network.of(text) for text in given.networks]
    asked = Asked(given.images, given.boxes, given.count, given.segment, given.seed)
    try:
        methods = chosen(given.methods)
        text = fill(asked, networks, methods, given.out)
    except (InputError, OptionError) as error:
        parser.exit(2, f"error: {error}\n")
    print(text)


def fill(asked: Asked, networks: Sequence[Network], methods: Sequence[str], out: Path) -> str:
    """Measure the cells that are missing, write each as soon as it is there; the table."""
    out.mkdir(parents=True, exist_ok=True)
    known = read_cells(out / "cells.jsonl")
    load = cache(lambda spec: prepare(load_classifier(spec)))
    pairs = [(network, method) for method in methods for network in networks]
    keys = {pair: Cell(**asked.wanted(*pair), status="").key for pair in pairs}
    for number, (network, method) in enumerate(pairs, start=1):
        key = keys[network, method]
        if key not in known or known[key].status == "failed":
            begun = time.perf_counter()
            known[key] = asked.cell(load, network, method)
            append_cell(out / "cells.jsonl", known[key])
            took = time.perf_counter() - begun
            _say(f"{number}/{len(pairs)} {method} on {network.name}: {_shown(known[key])}, {took:.0f} s")
        cells = [known[found] for found in keys.values() if found in known]
        (out / "ground_truth_known.md").write_text(table(cells, networks, methods), encoding="utf-8")
    return table([known[key] for key in keys.values()], networks, methods)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
