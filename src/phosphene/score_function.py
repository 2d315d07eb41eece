"""Any function of pictures as a classifier: for methods that need scores alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from torch import nn

from phosphene.classifier import Classifier, HeadKind, Preprocess
from phosphene.errors import ModelError, OptionError
from phosphene.graph import FunctionModule, Takes
from phosphene.labels import LabelsLike


class ScoreFunction(Classifier):
    """A classifier of which nothing is known but its scores: a Python function, a file of another runtime, a service.

    Methods that need scores alone work on it: occlusion, RISE, captum's feature ablation, LIME, kernel SHAP and Shapley
    value sampling, localization from their maps, insertion, deletion and average drop. What needs a gradient or a layer
    is refused in one line. Before the first map the function is asked some 15 times with one or two images, of noise,
    black and white: whether it returns probabilities, whether its answer for an image changes with the rest of the
    batch.

    Args:
        function: called with a batch of pictures as `takes` says; returns a row of scores for each, (N, K), as an
            array, a tensor or nested lists, or a dict or tuple that holds them. What it raises is told in one line.
        preprocess: as for a Classifier; None for images in [0, 1] as they are, of any size and three channels.
        labels: names of the K classes, as a Classifier takes them.
        head: "softmax", "sigmoid", "probabilities" for a function that returns them already, or "score".
        takes: "tensor", float32 (N, C, H, W), normalized by `preprocess`; "array", the same as a NumPy array;
            "pictures", a uint8 array (N, H, W, C) with values of 0 to 255, as services and file formats have them.
        name: what reports call it.
        output: key or position of the scores where the function returns a dict or a tuple.
        identity: bytes that tell it from other functions, such as a hash: a run that goes on compares it.

    Raises:
        ModelError: for what is no function, or is a module, whose gradients would be lost.
        OptionError: for another `takes`, or a normalization of pictures of 0 to 255.

    Example:
        >>> import numpy as np
        >>> def brightness(pictures):
        ...     bright = pictures.mean((1, 2, 3)) / 255
        ...     return np.stack([1 - bright, bright], axis=1)
        >>> classifier = ScoreFunction(brightness, None, ["dark", "bright"], "probabilities", takes="pictures")
        >>> from phosphene import attribute
        >>> attribute(classifier, torch.rand(1, 3, 32, 32), "bright", "occlusion:window=8,stride=8").maps.shape
        torch.Size([1, 4, 4])
        >>> attribute(classifier, torch.rand(1, 3, 32, 32), "bright", "saliency")
        Traceback (most recent call last):
        phosphene.errors.ModelError: brightness is a function of pictures, which has no gradient; ...
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        preprocess: Preprocess | None = None,
        labels: LabelsLike = None,
        head: HeadKind = "softmax",
        *,
        takes: Takes = "tensor",
        name: str | None = None,
        output: str | int | None = None,
        identity: bytes = b"",
    ) -> None:
        if isinstance(function, nn.Module):
            raise ModelError(
                f"{type(function).__name__} is a module, which has layers and gradients; give it to Classifier, or "
                "wrap it (lambda images: module(images)) to see its scores alone"
            )
        if not callable(function):
            raise ModelError(
                f"a ScoreFunction needs a function of a batch of pictures, not a {type(function).__name__}"
            )
        if takes not in get_args(Takes):
            raise OptionError(f"takes={takes!r} is unknown; choose tensor, array or pictures")
        if takes == "pictures" and preprocess is not None and _normalizes(preprocess):
            raise OptionError(
                "takes='pictures' are whole numbers of 0 to 255, which are not normalized: leave mean 0 and std 1 in "
                "the Preprocess, or choose takes='array'"
            )
        if takes == "pictures" and preprocess is None:  # said, and not merely left out
            preprocess = Preprocess(None, None, (0.0,) * 3, (1.0,) * 3)
        known = name or getattr(function, "__name__", type(function).__name__)
        super().__init__(FunctionModule(function, takes, identity), preprocess, labels, head, name=known, output=output)


def _normalizes(preprocess: Preprocess) -> bool:
    return any(preprocess.mean) or any(value != 1 for value in preprocess.std)
