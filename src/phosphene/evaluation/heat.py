"""Maps of a method for a batch of pictures, brought to the pixels that the network sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from phosphene.errors import InputError, ModelError, NumericalError, OptionError, reason
from phosphene.grids import pixel_centers, sample_map
from phosphene.images import Picture
from phosphene.registry import Spec, entry, make_spec, parse_spec
from phosphene.runtime import Prepared
from phosphene.targets import Target
from phosphene.tasks.attributions import attribute, needed_view
from phosphene.types import Attribution, Record, View

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Heat:
    """Maps of one method for a batch of pictures.

    Args:
        attribution: as the method gave it.
        pixels: (N, H, W) what is laid on the pictures, one value per pixel that the network sees.
    """

    attribution: Attribution
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def alive(self) -> list[bool]:
        """Per image whether the map says anything: no NaN, not zero everywhere."""
        return [problem is None for problem in self.attribution.problems]

    @property
    def drawn(self) -> Tensor:
        """(N, H, W) what speaks for the class: the positive part, unless the map is shown with both signs."""
        return self.pixels if self.attribution.display == "signed" else self.pixels.clamp(min=0)


def heat_of(
    classifier: Prepared,
    pictures: Sequence[Picture],
    views: Sequence[View],
    target: Target,
    spec: Spec,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Heat:
    """What a method lays on pictures, in the pixels of `views`; a method that needs a larger view gets it.

    Args:
        classifier: what is explained.
        pictures: as they are in their files.
        views: what the network sees of each when it classifies.
        target: one class for each picture.
        spec: the configured method.
        seed: of methods that draw random numbers.
        progress: called with (steps done, steps in all) by methods of many passes.
    """
    kind = needed_view(spec, "center")
    shown = tuple(views) if kind == "center" else classifier.views(pictures, kind)
    images = classifier.preprocessed(pictures, shown)
    result = attribute(classifier, images, target, spec, seed=seed, progress=progress)
    offset, stride = result.heat_grid
    rows = [
        _seen_through(result.heat[index : index + 1], offset, stride, shown[index], view)
        for index, view in enumerate(views)
    ]
    return Heat(replace(result, views=shown), torch.cat(rows))


def _seen_through(
    heat: Tensor, offset: tuple[float, float], stride: tuple[float, float], shown: View, view: View
) -> Tensor:
    """(1, H, W): a map made through one view read at the pixels of another one of the same picture."""
    axes = []
    for axis in range(2):
        places = pixel_centers(view.crop[axis + 2]) + view.crop[axis]
        axes.append(places * (shown.scaled[axis] / view.scaled[axis]) - shown.crop[axis])
    return sample_map(heat, offset, stride, axes[0], axes[1])


def passes(progress: Progress | None, text: str) -> Callable[[int, int], None] | None:
    """The progress of the passes of a method, for what is said of them; None where nobody asks."""
    return None if progress is None else lambda done, total: progress(done, total, text)


def several(paths: Iterable[str | os.PathLike[str]], what: str) -> list[str | os.PathLike[str]]:
    """The paths; of one alone the letters would be taken for paths.

    Raises:
        OptionError: for one path alone.

    Example:
        >>> several(["a.jpg"], "picture files")
        ['a.jpg']
    """
    if isinstance(paths, str | os.PathLike):
        raise OptionError(f"{os.fspath(paths)}: is one path; give a list of {what}")
    return list(paths)


def affordable(methods: str | Spec | Sequence[str | Spec], masks: int | None) -> tuple[Spec, ...]:
    """The methods as specs; where `masks` is given, those that draw masks and do not say how many get so many.

    Raises:
        OptionError: if no method is given, or two are the same.

    Example:
        >>> [str(spec) for spec in affordable(["rise", "grad_cam", "rise:masks=8"], 500)]
        ['rise:masks=500', 'grad_cam', 'rise:masks=8']
    """
    specs = [parse_spec(method) for method in ([methods] if isinstance(methods, str | Spec) else methods)]
    if masks is not None:
        specs = [
            make_spec(spec.name, **{"masks": masks, **spec.keywords}) if "masks" in _options(spec) else spec
            for spec in specs
        ]
    if not specs:
        raise OptionError("no method was given; name at least one")
    names = [str(spec) for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"method '{name}' is given twice")
    return tuple(specs)


def _options(spec: Spec) -> set[str]:
    return set(entry("attribution", spec.name).options)


class Fallible(Protocol):
    """A measurement that may turn out impossible."""

    error: str | None


@contextmanager
def failing(measurement: Fallible) -> Iterator[None]:
    """A method that cannot explain this network says so in its own row, and the others go on."""
    try:
        yield
    except (ModelError, NumericalError) as error:
        measurement.error = str(error)


def refuse_if_none_works(measurements: Iterable[Fallible]) -> None:
    """Refuse to go on where not one of the methods can explain this network.

    Raises:
        OptionError: with what each of them said.
    """
    errors = [one.error for one in measurements]
    if all(errors):
        raise OptionError("; ".join(dict.fromkeys(map(str, errors))))


def nothing_measured(what: str, broken: Sequence[Record]) -> InputError:
    """The error that no picture could be read, with what was wrong with the first."""
    first = f"; the first: {broken[0].path}: {reason(broken[0].error or '', broken[0].path)}" if broken else ""
    return InputError(f"{what}: no picture could be read{first}")
