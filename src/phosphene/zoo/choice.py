"""Which classifier is meant, where it runs and how exactly: what is loaded once a process, and what a manifest says."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Any

import torch

from phosphene.classifier import Classifier
from phosphene.devices import stored_bytes
from phosphene.errors import OptionError
from phosphene.fixed_inputs import tensors_of
from phosphene.runtime import Prepared, prepare
from phosphene.runtime.prepare import Precision
from phosphene.zoo.card import Card
from phosphene.zoo.load import load_classifier


@dataclass(frozen=True)
class ModelChoice:
    """A classifier before it is loaded; it can be pickled, so that every process loads its own.

    Args:
        spec: for load_classifier, or a Classifier.
        weights: file of weights for the model that a spec names; None for those it comes with.
        device: where to run; None leaves the model where it is.
        precision: "exact" or "fast".
        threads: to compute with, set for the process when the model is loaded; None leaves them as they are.
        black: the stored value that is black in its pictures, as in `Preprocess`; None as the spec says.
        white: the stored value that is white in them, likewise.

    Example:
        >>> ModelChoice("embedded").load().preprocess.size
        (224, 224)
    """

    spec: str | Classifier = "embedded"
    weights: str | None = None
    device: str | None = None
    precision: Precision = "exact"
    threads: int | None = None
    black: float | None = None
    white: float | None = None

    def load(self) -> Prepared:
        """The prepared classifier."""
        if self.threads is not None:
            cores = os.cpu_count() or 1
            if self.threads > cores:  # (thousands of them would take the machine down)
                raise OptionError(f"--threads {self.threads}: this machine has {cores} cores; give no more")
            torch.set_num_threads(self.threads)
        found = load_classifier(self.spec, weights=self.weights, device=self.device)
        if self.black is not None or self.white is not None:
            fed = found.preprocess
            black = fed.black if self.black is None else self.black
            white = fed.white if self.white is None else self.white
            found = Card(replace(fed, black=black, white=white)).applied_to(found)
        return prepare(found, precision=self.precision)

    def described(self, classifier: Classifier) -> dict[str, Any]:
        """Name, shape and fingerprint of the network that was loaded, for the manifest."""
        preprocess = classifier.preprocess
        return {
            "spec": self.spec if isinstance(self.spec, str) else classifier.name,
            "weights": self.weights,
            "name": classifier.name,
            "sha256": weights_hash(classifier),
            "classes": len(classifier.labels),
            "head": classifier.head,
            "size": preprocess.size,
            "channels": preprocess.channels,
            "mean": preprocess.mean,
            "std": preprocess.std,
            "scale": preprocess.scale,
            "order": preprocess.order,
            "black": preprocess.black,
            "white": preprocess.white,
        }


def weights_hash(classifier: Classifier) -> str:
    """SHA-256 over names, shapes and values of all weights and fixed inputs: the same network, the same text."""
    source = classifier.source if isinstance(classifier, Prepared) else classifier
    digest = hashlib.sha256()
    for name, tensor in [*sorted(source.module.state_dict().items()), *tensors_of(source.inputs)]:
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(stored_bytes(tensor))
    return digest.hexdigest()
