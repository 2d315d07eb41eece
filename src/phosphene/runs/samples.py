"""Which pictures an evaluation looks at, and which class in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phosphene.classifier import Classifier
from phosphene.errors import InputError, OptionError
from phosphene.images import expand_paths


def chosen_files(images: Sequence[str], limit: int) -> list[Path]:
    """The files of some paths and folders, at most `limit`, taken evenly from all; 0 takes all.

    Evenly, so that folders that are sorted by class are sampled fairly.

    Raises:
        InputError: if there is none.
        OptionError: for a negative limit.
    """
    if limit < 0:
        raise OptionError(f"--limit {limit}: give how many pictures, or 0 for all")
    files = expand_paths(list(images))
    if not files:
        raise InputError("no pictures were given; name files or folders with --images")
    if limit == 0 or limit >= len(files):
        return files
    return [files[index] for index in np.linspace(0, len(files) - 1, limit).round().astype(int)]


def target_of(classes: str, classifier: Classifier) -> int | None:
    """The class to explain in every picture; None, each picture's best, for "top1"."""
    return None if classes == "top1" and classes not in classifier.labels.names else classifier.labels.find(classes)
