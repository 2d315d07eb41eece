"""Which classes of a picture are meant: one by name, or its K best."""

from __future__ import annotations

from torch import Tensor

from phosphene.errors import OptionError
from phosphene.labels import Labels


def best_count(classes: str, labels: Labels) -> int | None:
    """K of 'topK', or None if it is a class, by this very name too.

    Example:
        >>> best_count("top3", Labels()), best_count("tabby", Labels()), best_count("top3", Labels(("top3", "x")))
        (3, None, None)
    """
    if classes in labels.names:
        return None
    tail = classes.removeprefix("top")
    if tail != classes and tail.isascii() and tail.isdigit():
        if int(tail) < 1:
            raise OptionError(f"--class {classes}: top1 is the smallest")
        return int(tail)
    return None


def check_classes(classes: str, labels: Labels) -> None:
    """Refuse a class that there is not, before anything is computed.

    Raises:
        NotFoundError: naming the nearest ones.
    """
    if best_count(classes, labels) is None:
        labels.find(classes)


def chosen_classes(
    classes: str, labels: Labels, scores: Tensor, without: tuple[int, ...] = ()
) -> list[tuple[int, ...]]:
    """For each row of scores (N, K) the class, or its best ones; the same number for all rows.

    Args:
        classes: a class, or 'topK'.
        labels: of the classifier.
        scores: that say which classes are best; of equal ones the first.
        without: classes that are not to be among the best.

    Example:
        >>> import torch
        >>> chosen_classes("top2", Labels(), torch.tensor([[0.1, 0.7, 0.2]]), without=(1,))
        [(2, 0)]
    """
    best = best_count(classes, labels)
    if best is None:
        return [(labels.find(classes),)] * len(scores)
    ranked = scores.argsort(dim=1, descending=True, stable=True).tolist()
    return [tuple([index for index in row if index not in without][:best]) for row in ranked]
