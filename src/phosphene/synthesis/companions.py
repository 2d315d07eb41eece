"""Companions: pictures of other classes, drawn once per network, whose statistics a picture joins.

Photographs of all kinds together have the means and deviations that the network's batch norms remember; a single
photograph has not. So a drawing that shall look like a photograph must not have these statistics by itself, but
should fit into a mixed company that has them. The company is drawn once; of it only sums are kept, and each picture
joins the same company by itself, whatever else is drawn beside it.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import OutputError, PhospheneWarning
from phosphene.files import write_whole
from phosphene.runtime import forward, prepare
from phosphene.synthesis.norms import Memory, distance, memories
from phosphene.synthesis.objectives import Objective, StepOutputs

# How many are drawn; parts of a drawing that each have their own sums.
_COUNT, _PARTS = 16, 20
# What of Preprocess is always part of the key.
_ALWAYS = ("size", "short_side", "mean", "std", "interpolation")
# Changes with whatever changes the sums of the same network.
_VERSION = 1
# Sums are kept in 16 bits; what is so far off says no more than this.
_LARGEST = 6e4


@dataclass(frozen=True)
class Companions:
    """Sums of the moments (synthesis.norms) over companions, for each layer and each part of a drawing.

    Args:
        count: of companions.
        memory: what the layers' norms remember.
        sums: (parts, 2, k) by layer.
    """

    count: int
    memory: Mapping[str, Memory]
    sums: Mapping[str, Tensor]

    def joined(self) -> Objective:
        """(n,) how far each picture moves the company from what the norms remember; subtract it, scaled.

        ``(count + 1) * distance((sums + own moments) / (count + 1))``, mean over layers. Its gradient says where all
        companions err together, such as in a channel that every drawing excites.

        References:
            yin2020, which draws whole batches.
        """

        def value(reading: StepOutputs) -> Tensor:
            part = _part_of(reading.step, reading.steps)
            far = [
                distance((self.sums[layer][part] + own) / (self.count + 1))
                for layer, own in _moments(self.memory, reading)
            ]
            return (self.count + 1) * torch.stack(far).mean(dim=0)

        return Objective(value, tuple(self.memory))


@dataclass
class _Company:
    """Companions being drawn: the statistics of the whole batch count, and its sums are kept."""

    memory: Mapping[str, Memory]
    found: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def apart(self) -> Objective:
        """(n,) how far the batch as a whole lies from what the norms remember."""

        def value(reading: StepOutputs) -> Tensor:
            far = []
            for layer, own in _moments(self.memory, reading):
                self.found[layer, _part_of(reading.step, reading.steps)] = own.detach().sum(dim=0)
                far.append(distance(own.mean(dim=0, keepdim=True)))
            return torch.stack(far).mean(dim=0).expand(len(reading.images))

        return Objective(value, tuple(self.memory))

    def sums(self) -> dict[str, Tensor]:
        """(parts, 2, k) by layer that ran."""
        ran = dict.fromkeys(layer for layer, _ in self.found)
        sums = {layer: torch.stack([self.found[layer, part] for part in range(_PARTS)]) for layer in ran}
        return {layer: values.clamp(max=_LARGEST).half().float().cpu() for layer, values in sums.items()}


def _moments(memory: Mapping[str, Memory], reading: StepOutputs) -> Iterator[tuple[str, Tensor]]:
    for layer, own in memory.items():
        if layer in reading.activations:  # (a norm need not run)
            yield layer, own.moments(reading.activations[layer])


def _part_of(step: int, steps: int) -> int:
    return min(_PARTS - 1, step * _PARTS // max(1, steps))


def companions(classifier: Classifier, draw: Callable[[list[int], Objective], Iterator[object]]) -> Companions | None:
    """The companions of a network: those that come with phosphene, those in the user's cache, or new ones.

    Args:
        classifier: the network; None is returned where no norm of it remembers statistics.
        draw: (classes, penalty) -> the steps of drawing these classes, all in one batch, less the penalty.

    Returns:
        The companions, their sums kept in the user's cache (`PHOSPHENE_CACHE`, or ~/.cache/phosphene).
    """
    memory = memories(classifier)
    if not memory:
        return None
    name = f"companions-{_key(classifier)}.npz"
    packaged, kept = files("phosphene").joinpath(f"data/{name}"), cache_folder() / name
    for place in (packaged, kept):
        found = _kept(place)
        if found is not None and found.keys() <= memory.keys():
            return _joining(classifier, memory, found)
    warnings.warn(
        f"{classifier.name}: {_COUNT} companion pictures are drawn once for this network (kept in {kept}); "
        "statistics=0 draws without them",
        PhospheneWarning,
        stacklevel=2,
    )
    company = _Company(memory)
    for _ in draw(_classes(classifier), company.apart()):
        pass
    sums = company.sums()
    _keep(kept, sums)
    return _joining(classifier, memory, sums)


def _joining(classifier: Classifier, memory: Mapping[str, Memory], sums: Mapping[str, Tensor]) -> Companions:
    here = {layer: values.to(classifier.device) for layer, values in sums.items()}
    return Companions(_COUNT, {layer: memory[layer] for layer in here}, here)


def cache_folder() -> Path:
    """Where what is costly to make again is kept: `PHOSPHENE_CACHE`, or phosphene in the user's cache folder."""
    own, shared = os.environ.get("PHOSPHENE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "phosphene"


def _classes(classifier: Classifier) -> list[int]:
    """Classes from all over the list, so that the company is a mixed one."""
    size = classifier.preprocess.size or (224, 224)
    count = forward(classifier, classifier.mean_image.expand(1, -1, *size)).shape[1]
    return [int((index + 0.5) * count / _COUNT) if count >= _COUNT else index % count for index in range(_COUNT)]


def _key(classifier: Classifier) -> str:
    """What the sums hang on: the network's weights, its input, and how companions are drawn."""
    found = hashlib.sha256(f"({_VERSION}, {_fed(classifier.preprocess)})".encode())
    for name, values in prepare(classifier).source.module.state_dict().items():
        found.update(name.encode())
        found.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _fed(preprocess: Preprocess) -> str:
    """How the network is fed; of what was added to Preprocess later only what is not as usual, so that keys stay."""
    said = {item.name: getattr(preprocess, item.name) for item in fields(preprocess)}
    usual = {item.name: item.default for item in fields(preprocess) if item.name not in _ALWAYS}
    shown = ", ".join(f"{name}={value!r}" for name, value in said.items() if name not in usual or value != usual[name])
    return f"Preprocess({shown})"


def _kept(place: Traversable) -> dict[str, Tensor] | None:
    """The sums in a file; None where there is none, or one that is damaged."""
    if not place.is_file():
        return None
    try:
        with place.open("rb") as opened, np.load(opened, allow_pickle=False) as table:
            return {layer: torch.from_numpy(table[layer].astype(np.float32)) for layer in table.files}
    except (OSError, ValueError, EOFError, BadZipFile):
        return None


def _keep(place: Path, sums: Mapping[str, Tensor]) -> None:
    """Keep the sums; where nothing can be written they are drawn anew next time."""
    content = io.BytesIO()
    np.savez_compressed(content, **{layer: values.half().numpy() for layer, values in sums.items()})  # type: ignore[arg-type]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(str(place.parent), place.name, content.getvalue())
    except (OSError, OutputError):
        return
