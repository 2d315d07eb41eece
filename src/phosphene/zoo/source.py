"""Where classifiers come from, by the word before the colon of a spec: each source registers itself."""

from __future__ import annotations

from collections.abc import Callable

from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.zoo.weights import Weights

Load = Callable[[str, Weights], Classifier]

# By name; and how the specs of each are written, for messages.
SOURCES: dict[str, Load] = {}
SPELLINGS: dict[str, tuple[str, ...]] = {}


def model_source(name: str, *spelled: str) -> Callable[[Load], Load]:
    """Register a source of classifiers: a function of (what stands behind the colon, weights) -> Classifier.

    Modules of phosphene.zoo are found by themselves, those of other packages by the entry point group "phosphene.zoo".

    Args:
        name: the word before the colon.
        *spelled: how its specs are written.

    Raises:
        OptionError: for a name that is taken.

    Example:
        >>> @model_source("mine", "mine:NAME")
        ... def load(name, weights=None): ...
        >>> SPELLINGS.pop("mine"), SOURCES.pop("mine") is load
        (('mine:NAME',), True)
    """

    def register(load: Load) -> Load:
        present = SOURCES.get(name)
        if present is not None and present.__module__ != load.__module__:
            raise OptionError(f"the source '{name}' of classifiers is registered already, by {present.__module__}")
        SOURCES[name], SPELLINGS[name] = load, spelled
        return load

    return register
