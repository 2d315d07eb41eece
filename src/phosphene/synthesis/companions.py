"""Companions: pictures of other classes, drawn once per network, whose statistics a picture joins.

Photographs of all kinds together have the means and deviations that the network's batch norms remember; a single
photograph has not. So a drawing that shall look like a photograph must not have these statistics by itself, but
should fit into a mixed company that has them. The company is drawn once; of it only sums are kept, and each picture
joins the same company by itself, whatever else is drawn beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files

import torch
from torch import Tensor

from phosphene.classifier import Classifier, Preprocess
from phosphene.devices import stored_bytes
from phosphene.errors import warn
from phosphene.files import cache_folder
from phosphene.fixed_inputs import tensors_of
from phosphene.runtime import prepare
from phosphene.synthesis.cached import keep_table, read_table
from phosphene.synthesis.canvas import canvas_size, class_count
from phosphene.synthesis.norms import Memory, distance, memories
from phosphene.synthesis.objectives import Objective, StepOutputs
from phosphene.synthesis.photographs import Photographs
from phosphene.synthesis.priors import tones_of

# How many are drawn; parts of a drawing that each have their own sums.
_COUNT, _PARTS = 16, 20
# What of Preprocess is always part of the key.
_ALWAYS = ("size", "short_side", "mean", "std", "interpolation")
# Changes with whatever changes the sums of the same network.
_VERSION = 1
# Sums are kept in 16 bits; what is so far off says no more than this.
_LARGEST = 6e4
# The last sums that were drawn in this process, where they cannot be kept on disk.
_DRAWN: dict[str, dict[str, Tensor]] = {}


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


def companions(
    classifier: Classifier, draw: Callable[[list[int], Objective], Iterator[object]], folder: str = ""
) -> Companions | None:
    """The companions of a network: those that come with phosphene, those in the user's cache, or new ones.

    Args:
        classifier: the network; None is returned where no norm of it remembers statistics.
        draw: (classes, penalty) -> the steps of drawing these classes, all in one batch, less the penalty.
        folder: of pictures whose statistics stand in for what the norms remember; empty for the norms'.

    Returns:
        The companions, their sums kept in the user's cache (`PHOSPHENE_CACHE`, or ~/.cache/phosphene).
    """
    pictures = Photographs.of(folder) if folder else None
    memory = memories(classifier) if pictures is None else pictures.memories(classifier)
    ran = {layer.name for layer in prepare(classifier).layers} if memory else set()
    memory = {name: own for name, own in memory.items() if name in ran}
    if not memory:
        return None
    name = f"companions-{_key(classifier, pictures)}.npz"
    drawn = _DRAWN.get(name)
    if drawn is not None:
        return _joining(classifier, memory, drawn)
    packaged, kept = files("phosphene").joinpath(f"data/{name}"), cache_folder() / name
    for place in (packaged, kept):
        found = read_table(place)
        if found is not None and found.keys() <= memory.keys():
            return _joining(classifier, memory, found)
    instead = "leave the folder out to draw without them" if folder else "statistics=0 draws without them"
    warn(
        f"{classifier.name}: {_COUNT} companion pictures are drawn once for this network"
        f"{f' and the statistics of {folder}' if folder else ''} (kept in {kept}); {instead}",
    )
    company = _Company(memory)
    for _ in draw(_classes(classifier), company.apart()):
        pass
    sums = {layer: values.half() for layer, values in company.sums().items()}
    keep_table(kept, sums)
    found = {layer: values.float().cpu() for layer, values in sums.items()}
    if not kept.is_file():
        _DRAWN.clear()
        _DRAWN[name] = found
    return _joining(classifier, memory, found)


def _joining(classifier: Classifier, memory: Mapping[str, Memory], sums: Mapping[str, Tensor]) -> Companions:
    here = {layer: values.to(classifier.device) for layer, values in sums.items()}
    return Companions(_COUNT, {layer: memory[layer] for layer in here}, here)


def _classes(classifier: Classifier) -> list[int]:
    """Classes from all over the list, so that the company is a mixed one."""
    count = class_count(classifier)
    return [int((index + 0.5) * count / _COUNT) if count >= _COUNT else index % count for index in range(_COUNT)]


def _key(classifier: Classifier, pictures: Photographs | None = None) -> str:
    """What the sums hang on: the network's weights, its inputs, its classes, and pictures if given."""
    found = hashlib.sha256(f"({_VERSION}, {_fed(classifier.preprocess)})".encode())
    source = prepare(classifier).source
    for name, values in [*source.module.state_dict().items(), *tensors_of(source.inputs)]:
        found.update(name.encode())  # (a module may keep what is no tensor, such as packed weights)
        found.update(stored_bytes(values) if isinstance(values, Tensor) else repr(values).encode())
    if (source.head, source.output) != ("softmax", None):  # (of others the key stays what it was)
        found.update(f"{source.head} {source.output} {class_count(classifier)}".encode())
    tones, usual = (
        tones_of(float(classifier.preprocess.mean_at(canvas_size(classifier)).clamp(0, 1).mean())),
        tones_of(0),
    )
    found.update(b"" if tones == usual else f"{tones}".encode())
    found.update(b"" if pictures is None else pictures.key.encode())
    return found.hexdigest()[:16]


def _fed(preprocess: Preprocess) -> str:
    """How the network is fed; of what was added to Preprocess later only what is not as usual, so that keys stay."""
    said = {item.name: getattr(preprocess, item.name) for item in fields(preprocess)}
    usual = {item.name: item.default for item in fields(preprocess) if item.name not in _ALWAYS}
    shown = ", ".join(f"{name}={value!r}" for name, value in said.items() if name not in usual or value != usual[name])
    return f"Preprocess({shown})"
