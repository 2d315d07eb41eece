"""Networks of several inputs: one of them is the picture that is explained, the others are fixed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phosphene.errors import InputError, ModelError, OptionError, suggest

# What a network takes besides, by the names in its forward; or a function that tells it of each picture of a source.
InputsLike = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] | None

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, eq=False)
class FixedInputs:
    """What a network takes besides the picture, and which of its inputs the picture is.

    Args:
        values: by the names in its forward. A tensor with a first axis of 1 goes with every image of a batch; all else
            is handed over as it is.
        of_item: tells further values of a picture (a source's Item); asked by tasks, which know the pictures.
        explained: the name of the input that is the picture; None for the first.

    Example:
        >>> class Two(nn.Module):
        ...     def forward(self, image, age):
        ...         return image.mean((2, 3)) + age
        >>> fixed = fixed_inputs(Two(), {"age": torch.tensor([[40.0]])})
        >>> fixed.call(Two(), torch.zeros(2, 1, 4, 4))
        tensor([[40.],
                [40.]])
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    of_item: Callable[[Any], Mapping[str, Any]] | None = None
    explained: str | None = None

    def call(self, module: nn.Module, images: Tensor) -> Any:
        """What a module returns for normalized images (N, C, H, W).

        Raises:
            ModelError: where the other inputs are told of each picture, and no picture said which it is.
        """
        if self.of_item is not None:
            raise ModelError(
                f"{type(module).__name__} takes inputs that are told of each picture of a source; explain, predict, "
                "locate and batch give them, in Python classifier.given(name=value) does"
            )
        values = {name: _for_each(value, images) for name, value in self.values.items()}
        if self.explained is None:
            return module(images, **values)
        return module(**{self.explained: images}, **values)

    def given(self, module: nn.Module, values: Mapping[str, Any]) -> FixedInputs:
        """The same with these values, and none to be told any more.

        Raises:
            OptionError: for inputs that the network has not.
            ModelError: if one is left open that it needs.
        """
        known = {**self.values, **_tensors(values)}
        found = replace(self, values=known, of_item=None, explained=_picture(module, known, self.explained))
        check_inputs(module, found)
        return found

    def told(self, item: Any) -> Mapping[str, Any]:
        """The values for a picture of a source.

        Raises:
            InputError: if the function that tells them fails.
        """
        assert self.of_item is not None
        try:
            values = self.of_item(item)
        except Exception as error:  # code of the user's own may raise anything
            raise InputError(
                f"{item.path}: what the network takes besides the picture cannot be told "
                f"({type(error).__name__}: {error})"
            ) from error
        if not isinstance(values, Mapping):
            raise InputError(
                f"{item.path}: what the network takes besides the picture was told as a {type(values).__name__}; "
                "return a dict of values by the names in its forward"
            )
        return values


def fixed_inputs(module: nn.Module, inputs: InputsLike | FixedInputs, explained: str | None = None) -> FixedInputs:
    """How a network is called, from what a Classifier is given.

    Raises:
        OptionError: for what is neither a dict nor a function, or names inputs that the network has not.
        ModelError: if a dict leaves an input open that the network needs.
    """
    if isinstance(inputs, FixedInputs):
        return inputs
    if inputs is not None and not isinstance(inputs, Mapping) and not callable(inputs):
        raise OptionError(
            f"inputs of type {type(inputs).__name__}; give a dict of values by the names in the network's forward, or "
            "a function that returns one for each picture of a source"
        )
    if callable(inputs) and not isinstance(inputs, Mapping):
        found = FixedInputs(of_item=inputs, explained=explained)
        known = _names(module)
        if explained is not None and known is not None and explained not in known:
            raise _unknown(module, explained, known)
        return found
    values = _tensors(inputs or {})
    if explained in values:
        raise OptionError(f"input '{explained}' is fixed and explained; choose one")
    found = FixedInputs(values, None, _picture(module, values, explained))
    if values or explained is not None:
        check_inputs(module, found)
    return found


def _picture(module: nn.Module, values: Mapping[str, Any], explained: str | None) -> str | None:
    """The name of the input that is the picture; None where it is the first and has a place."""
    named = [item for item in _parameters(module) if item.kind not in _STARRED]
    found = explained or next((item.name for item in named if item.name not in values), None)
    placed = [item.name for item in named[:1] if item.kind != inspect.Parameter.KEYWORD_ONLY]
    return None if found in (None, *placed) else found


def check_inputs(module: nn.Module, fixed: FixedInputs) -> None:
    """Refuse inputs that a network has not, and such as leave one open that it needs.

    Raises:
        OptionError: naming the input, and those that there are.
        ModelError: naming what is open.
    """
    known = _names(module)
    for name in (*fixed.values, *([] if fixed.explained is None else [fixed.explained])):
        if known is not None and name not in known:
            raise _unknown(module, name, known)
    lacking = open_inputs(module, fixed)
    if lacking:
        raise lacking_inputs(type(module).__name__, lacking)


def open_inputs(module: nn.Module, fixed: FixedInputs) -> list[str]:
    """The inputs that a network needs and nobody gives it, but for the picture; empty where its code does not say."""
    parameters = _parameters(module)
    needed = [item.name for item in parameters if item.default is item.empty and item.kind not in _STARRED]
    picture = fixed.explained or next((item.name for item in parameters if item.kind not in _STARRED), None)
    return [name for name in needed if name != picture and name not in fixed.values]


def lacking_inputs(name: str, lacking: list[str]) -> ModelError:
    """The error for inputs that are open."""
    which = ", ".join(f"'{one}'" for one in lacking)
    return ModelError(
        f"{name} takes {which} besides the pictures; fix what is not explained, "
        f"Classifier(network, ..., inputs={{'{lacking[0]}': value}}); explained= names another picture than the first"
    )


def _unknown(module: nn.Module, name: str, known: Mapping[str, Any]) -> OptionError:
    return OptionError(
        f"{type(module).__name__} takes no input '{name}' (it takes {', '.join(known)}){suggest(str(name), known)}"
    )


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    """What the network's forward takes; nothing where its code does not say."""
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _names(module: nn.Module) -> dict[str, inspect.Parameter] | None:
    """The inputs by name, in order; None where the network takes any."""
    parameters = _parameters(module)
    if not parameters or any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters):
        return None
    return {item.name: item for item in parameters if item.kind not in _STARRED}


def _tensors(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with arrays as tensors."""
    return {
        str(name): torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in values.items()
    }


def _for_each(value: Any, images: Tensor) -> Any:
    """A fixed value for a batch of images: of its own, as the network may work in place on what it is given."""
    if not isinstance(value, Tensor):
        return value
    kind = images.dtype if value.is_floating_point() else value.dtype
    value = value.detach().to(images.device, kind)
    if value.ndim and len(value) == 1:
        value = value.expand(len(images), *value.shape[1:])
    return value.clone()


def tensors_of(fixed: FixedInputs) -> Iterator[tuple[str, Tensor]]:
    """The fixed values by name, plain ones as the bytes of their text, for a digest of the network."""
    for name, value in sorted(fixed.values.items()):
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, bool | int | float | str | None):
            yield name, torch.tensor(list(repr(value).encode()), dtype=torch.uint8, device="cpu")
