"""A function of pictures in the place of a network: it has scores, but neither layers nor gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from phosphene.errors import ModelError

Takes = Literal["tensor", "array", "pictures"]

_SCORES_ALONE = "use a method that needs scores alone: occlusion, rise or captum:lime"


class FunctionModule(nn.Module):
    """Calls a Python function as a network is called; a copy of it calls the same function.

    Args:
        function: of a batch as `takes` says, whose result holds the scores: an array, a tensor, nested lists, or a dict
            or tuple of these.
        takes: "tensor" (N, C, H, W) and "array" the same of NumPy, float32 and normalized; "pictures" a uint8 array
            (N, H, W, C) of 0 to 255.
        identity: bytes that tell this function from others, such as the hash of the file that it runs.

    Example:
        >>> module = FunctionModule(lambda images: images.mean((2, 3)), "array")
        >>> module(torch.ones(2, 3, 4, 4)).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    def __init__(self, function: Callable[[Any], Any], takes: Takes = "tensor", identity: bytes = b"") -> None:
        super().__init__()
        self.shared = _Shared(function)
        self.takes = takes
        # Where weights would be: runs are told apart by it, and it says which device the pictures belong to.
        self.register_buffer("identity", torch.tensor(list(identity), dtype=torch.uint8))

    def forward(self, images: Tensor) -> Any:
        """What the function returns for images (N, C, H, W), as tensors on their device."""
        if not isinstance(images, Tensor):
            raise TypeError(f"a function of pictures cannot be read as a graph: it was given a {type(images).__name__}")
        with torch.no_grad():
            found = self.shared.function(_given(images.detach(), self.takes))
        return _tensors(found, images.device)


def check_inside(module: nn.Module, name: str, what: str = "layers") -> None:
    """Refuse a function where layers or a gradient are asked for.

    Args:
        module: of a classifier.
        name: of the classifier.
        what: it would need.

    Raises:
        ModelError: naming it, and what to use instead.

    Example:
        >>> check_inside(FunctionModule(len), "mine", "gradient")
        Traceback (most recent call last):
        phosphene.errors.ModelError: mine is a function of pictures, which has no gradient; use a method that needs ...
    """
    if isinstance(module, FunctionModule):
        raise ModelError(f"{name} is a function of pictures, which has no {what}; {_SCORES_ALONE}")


class _Shared:
    """Holds a function, which is never copied or looked into: it may hold a session, a connection or a whole model."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def _given(images: Tensor, takes: Takes) -> Any:
    if takes == "tensor":
        return images
    plain = images.float().cpu()
    if takes == "array":
        return plain.contiguous().numpy()
    pixels = (plain.clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def _tensors(found: Any, device: torch.device) -> Any:
    if isinstance(found, Mapping):
        return {key: _tensors(value, device) for key, value in found.items()}
    if isinstance(found, tuple):
        return tuple(_tensors(value, device) for value in found)
    if isinstance(found, list) and found and isinstance(found[0], Mapping):  # a detector's boxes of each picture
        return [_tensors(value, device) for value in found]
    if isinstance(found, list):  # rows of numbers, or of arrays and tensors
        found = [row.detach().cpu().numpy() if isinstance(row, Tensor) else row for row in found]
    values = found.detach() if isinstance(found, Tensor) else torch.from_numpy(np.array(found))
    return (values.float() if values.is_floating_point() else values).to(device)
