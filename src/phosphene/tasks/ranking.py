"""Which classes are in a picture: what the network says of it in several views, together and in one alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import ViewKind
from phosphene.geometry import ten_crops
from phosphene.images import Picture
from phosphene.labels import Labels
from phosphene.localization.presets import LocalizationPreset
from phosphene.runtime import Prepared, forward
from phosphene.types import Prediction

_VIEWS: tuple[ViewKind, ...] = ("center", "whole")


def posteriors(classifier: Prepared, pictures: Sequence[Picture], way: LocalizationPreset) -> Tensor:
    """(N, K) probabilities by which classes are ranked, means over several views.

    "frame": the whole frame, the centre crop and the mirror images of both; the centre is what the network was trained
    on, the whole frame what is localized in, and both together know a little more than either. "ten_crops": those of
    Krizhevsky, as the paper has it; of a network that takes any size there are none, and the frame is taken.
    """
    return _of_views(classifier, pictures, way).mean(dim=0)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What the network says of pictures in several views.

    Args:
        odds: (N, K) the `posteriors`.
        alone: (N, K) probabilities in the one view that explain takes; None where it is not among the views.
        labels: of the classifier.
    """

    odds: Tensor
    alone: Tensor | None
    labels: Labels

    @classmethod
    def of(cls, classifier: Prepared, pictures: Sequence[Picture], way: LocalizationPreset) -> Ranking:
        """The ranking of pictures by a preset."""
        views = _of_views(classifier, pictures, way)
        return cls(views.mean(dim=0), None if _by_ten_crops(classifier, way) else views[0], classifier.labels)

    def note(self, row: int, classes: Sequence[int]) -> str | None:
        """What explain would read in a picture, where that is none of the classes that rank best."""
        if self.alone is None:
            return None
        best = int(self.alone[row].argmax())
        read = Prediction(best, self.labels[best], float(self.alone[row, best]))
        return None if best in classes else f"explain, which takes one look at the picture, reads {read}"


def _by_ten_crops(classifier: Prepared, way: LocalizationPreset) -> bool:
    return way.ranking == "ten_crops" and classifier.preprocess.size is not None


def _of_views(classifier: Prepared, pictures: Sequence[Picture], way: LocalizationPreset) -> Tensor:
    """(V, N, K) the probabilities of each view."""
    parts: list[Tensor] = []
    crop = classifier.preprocess.size
    if crop is not None and _by_ten_crops(classifier, way):
        around = classifier.preprocessed(pictures, classifier.views(pictures, "margin"))
        for top, left, mirrored in ten_crops((int(around.shape[-2]), int(around.shape[-1])), crop):
            seen = around[..., top : top + crop[0], left : left + crop[1]]
            parts.append(classifier.probabilities(forward(classifier, seen.flip(-1) if mirrored else seen)))
        return torch.stack(parts)
    for view in _VIEWS:  # (the first, as it is, is what explain looks at)
        images = classifier.preprocessed(pictures, classifier.views(pictures, view))
        parts += [classifier.probabilities(forward(classifier, seen)) for seen in (images, images.flip(-1))]
    return torch.stack(parts)
