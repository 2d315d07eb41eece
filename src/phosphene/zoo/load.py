"""load_classifier: from what a person types to a Classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, NotFoundError, suggest
from phosphene.zoo import embedded, head

SOURCES: dict[str, Callable[[str], Classifier]] = {"embedded": embedded.load}


def load_classifier(spec: str | Classifier = "embedded", *, device: str | torch.device | None = None) -> Classifier:
    """The classifier that a spec names, in eval mode on a device.

    Args:
        spec: "embedded" (EfficientNet-Lite0), "embedded:lite1", "embedded:lite2"; a folder made by `phosphene head`; a
            Classifier is returned as it is.
        device: "cpu", "cuda", ...; None leaves it where it was loaded.

    Raises:
        NotFoundError: for an unknown source, with the nearest ones.
        MissingExtraError: if something has to be installed first, with the install line.
        ModelError: if the device cannot be used.

    Example:
        >>> load_classifier("embedded").labels.find("tabby")
        281
    """
    if isinstance(spec, Classifier):
        classifier = spec
    elif head.is_head(spec):
        classifier = head.load(spec, load_classifier)
    else:
        source, _, rest = spec.partition(":")
        if source not in SOURCES:
            raise NotFoundError(f"no model '{spec}'{suggest(source, SOURCES)} (sources: {', '.join(SOURCES)})")
        classifier = SOURCES[source](rest)
    if device is not None:
        try:
            classifier.module.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).split("\n", 1)[0]
            raise ModelError(f"device '{device}' cannot be used ({reason}); choose cpu") from None
    return classifier
