"""Targets inside a network that are no single channel: a token of a transformer, a direction in a layer."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from phosphene.errors import InputError, ModelError, NotFoundError, OptionError, suggest
from phosphene.files import is_file, read_file
from phosphene.labels import class_index, class_list
from phosphene.targets import CommandOption, Named, Outputs, Target
from phosphene.types import Score

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Token(
    Target,
    kind="token",
    option=CommandOption("LAYER=CHANNEL@TOKEN", "A channel at one token of a layer, from 0; LAYER=all@TOKEN for all."),
):
    """A token of a transformer's layer with outputs (N, T, C): one of its channels there, or all of them.

    Its score is the value of the channel at the token; of all channels half their sum of squares, whose gradient is the
    token's own values. Token 0 is the class token of the networks that have one; the tokens that stand for patches are
    units as well, by their place: `Unit(layer, channel, (row, column))`.

    Args:
        layer: dotted name of the module.
        token: its number, from 0, as the layer has them.
        channel: index of the channel; None for all of them.

    Example:
        >>> Token.parse("blocks.3=12@0")
        Token(layer='blocks.3', token=0, channel=12)
    """

    layer: str
    token: int
    channel: int | None = None

    def __post_init__(self) -> None:
        try:
            token, channel = class_index(self.token), None if self.channel is None else class_index(self.channel)
        except OptionError:
            token, channel = -1, None
        if token < 0 or (channel is not None and channel < 0) or not isinstance(self.layer, str):
            raise OptionError(
                f"token {self.token!r} of layer {self.layer!r}, channel {self.channel!r}: give the name of a layer and "
                "whole numbers from 0"
            )
        object.__setattr__(self, "token", token)
        object.__setattr__(self, "channel", channel)

    def __str__(self) -> str:
        return f"{self.layer}={'all' if self.channel is None else self.channel}@{self.token}"

    @classmethod
    def parse(cls, text: str) -> Token:
        layer, _, rest = text.partition("=")
        channel, _, token = rest.partition("@")
        if not (layer and token.isdecimal() and (channel == "all" or channel.isdecimal())):
            raise OptionError(f"--token '{text}' is not LAYER=CHANNEL@TOKEN or LAYER=all@TOKEN")
        return cls(layer, int(token), None if channel == "all" else int(channel))

    def label(self, labels: Any) -> str:
        return f"token {self}"

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        """The value of the channel at the token, or half the token's sum of squares."""
        from phosphene.graph import token_axis

        output = outputs.activations[self.layer]
        if output.ndim != 3 or len(output) != _row_count(outputs):
            raise ModelError(
                f"layer {self.layer} has no tokens: its output is {tuple(output.shape)}, not (N, T, C); name another "
                "layer, or a unit"
            )
        tokens = output.transpose(1, token_axis(outputs.layouts.get(self.layer)))
        if self.token >= tokens.shape[1] or (self.channel or 0) >= tokens.shape[2]:
            raise NotFoundError(
                f"no token {self}: for one image {self.layer} has {tokens.shape[1]} tokens of {tokens.shape[2]} "
                "channels, both from 0"
            )
        values = tokens[:, self.token].float()
        return 0.5 * values.square().sum(dim=1) if self.channel is None else values[:, self.channel]

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def found_in(self, network: Named) -> Token:
        return replace(self, layer=network.layer_name(self.layer))

    def placed_in(self, network: Named) -> bool:
        from phosphene.graph import extra_tokens, token_axis

        for layer in network.layers:
            if layer.name == self.layer and (around := extra_tokens(layer.layout)) is not None:
                count = layer.shape[token_axis(layer.layout) - 1]
                return around[0] <= self.token < count - around[1]  # (a class's token is at no place)
        return True


@dataclass(frozen=True)
class Direction(
    Target,
    kind="direction",
    option=CommandOption(
        "LAYER=FILE[@NAME]",
        "A concept: a vector of a .npy or .safetensors file; or LAYER=CHANNEL,CHANNEL,... for several channels.",
    ),
):
    """How far a layer's output goes along a vector: a concept, or a set of units.

    Of a vector with a value for each channel it is the mean over places (without class tokens) of the dot product; of
    one with a value for each number of the output, in the network's own order, the dot product with all of it, as TCAV
    has its vectors. Of several channels it is their mean.

    Args:
        layer: dotted name of the module.
        vector: (C,), or (D,) for all of the output; any list, array or tensor.
        channels: indices of channels instead of a vector.
        path: of the file that the vector was read from, where it was.
        name: of the vector in the file.

    Example:
        >>> both = Direction("conv", channels=(1, 2))
        >>> found = {"conv": torch.tensor([[1.0, 2.0, 4.0]])}
        >>> outputs = Outputs(None, activations=found, images=torch.zeros(1, 3, 4, 4))
        >>> both.scores(outputs), Direction("conv", torch.tensor([0.0, 0.5, 0.5])).scores(outputs)
        (tensor([3.]), tensor([3.]))
    """

    layer: str
    vector: tuple[float, ...] = ()
    channels: tuple[int, ...] = ()
    path: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str):
            raise OptionError(f"layer {self.layer!r} of a direction is no text; give its dotted name")
        vector = _numbers(self.vector, f"direction {self.path}{'@' * bool(self.name)}{self.name}".strip())
        channels = tuple(class_index(index) for index in class_list(self.channels))
        if bool(vector) == bool(channels):
            raise OptionError(f"a direction in layer {self.layer}: give a vector, or channels, and not both")
        if min(channels, default=0) < 0 or len(set(channels)) < len(channels):
            raise OptionError(f"channels {channels} of a direction in {self.layer}: name each once, from 0")
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "channels", channels)

    def __str__(self) -> str:
        if self.channels:
            return f"{self.layer}={','.join(map(str, self.channels))}"
        if self.path:
            return f"{self.layer}={self.path}{'@' * bool(self.name)}{self.name}"
        return f"{self.layer}=vector-{zlib.crc32(repr(self.vector).encode()):08x}"

    @classmethod
    def parse(cls, text: str) -> Direction:
        """A direction from LAYER=FILE, LAYER=FILE@NAME or LAYER=CHANNEL,CHANNEL,...

        Raises:
            OptionError: for anything else.
            InputError: for a file that cannot be read, or holds no directions.
        """
        layer, _, rest = text.partition("=")
        if not (layer and rest):
            raise OptionError(f"--direction '{text}' is not LAYER=FILE, LAYER=FILE@NAME or LAYER=CHANNEL,CHANNEL,...")
        parts = rest.split(",")
        if all(part.isdecimal() for part in parts):
            return cls(layer, channels=tuple(map(int, parts)))
        path, _, name = (rest, "", "") if "@" not in rest or is_file(rest) else rest.rpartition("@")
        return cls.read(layer, path, name)

    @classmethod
    def read(cls, layer: str, path: str, name: str = "") -> Direction:
        """A direction of a file.

        Args:
            layer: dotted name of the module that it is a direction in.
            path: of a .safetensors file of vectors by name (`phosphene evaluate craft` and `evaluate concepts` write
                such), or of a .npy file: one vector (D,), or rows (K, D).
            name: of the vector; of rows their number, from 0. Not needed where there is but one.

        Raises:
            InputError: for a file that cannot be read, or holds no directions.
            OptionError: for no name where there are several.
            NotFoundError: for a name that there is not.
        """
        found = _vectors(path)
        if not name and len(found) > 1:
            raise OptionError(f"{path} holds {len(found)} directions; name one, such as {path}@{next(iter(found))}")
        if name and name not in found:
            raise NotFoundError(f"{path} holds no direction '{name}'{suggest(name, found)}")
        vector = found[name or next(iter(found))]
        return cls(layer, tuple(vector.tolist()), path=path, name=name)

    def label(self, labels: Any) -> str:
        return f"direction {self}"

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        """The dot product with the vector, or the mean of the channels."""
        import torch

        output = outputs.activations[self.layer]
        shape = tuple(output.shape[1:])
        if len(output) != _row_count(outputs):
            raise ModelError(f"the output of layer {self.layer} has no row for each image; name another layer")
        vector = torch.tensor(self.vector, dtype=torch.float32, device=output.device)
        if len(vector) == math.prod(shape):
            return output.float().flatten(1) @ vector
        places = outputs.spatial(self.layer).float()
        means = places if places.ndim == 2 else places.flatten(2).mean(dim=2)  # (N, C)
        if not self.channels and len(vector) != means.shape[1]:
            raise OptionError(
                f"the direction {self} has {len(vector)} values; the output of {self.layer} for one image is {shape}: "
                f"give {means.shape[1]}, one for each channel, or all {math.prod(shape)}"
            )
        if max(self.channels, default=0) >= means.shape[1]:
            raise NotFoundError(f"no channel {max(self.channels)} in {self.layer}: it has {means.shape[1]}, from 0")
        return means[:, list(self.channels)].mean(dim=1) if self.channels else means @ vector

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def found_in(self, network: Named) -> Direction:
        return replace(self, layer=network.layer_name(self.layer))

    def placed_in(self, network: Named) -> bool:
        shapes = [layer.shape for layer in network.layers if layer.name == self.layer]
        return any(len(shape) > 1 and len(self.vector) == math.prod(shape) for shape in shapes)


def _row_count(outputs: Outputs) -> int:
    """How many rows a layer's output has if there is one for each image."""
    if outputs.count is not None:
        return outputs.count
    assert outputs.images is not None
    return len(outputs.images)


def _numbers(values: Any, what: str) -> tuple[float, ...]:
    """The values of a vector in float32.

    Raises:
        OptionError: for what is no vector, holds NaN or infinity, or is zero everywhere.
    """
    import numpy as np

    if isinstance(values, tuple) and not values:
        return values
    try:
        found = np.asarray(values.detach().float().cpu() if hasattr(values, "detach") else values, dtype=np.float32)
    except (TypeError, ValueError):
        found = np.zeros(0, np.float32)
    if found.ndim != 1 or not found.size:
        raise OptionError(f"{what} is no vector: its shape is {np.shape(values)}; give one value for each channel")
    if not np.isfinite(found).all() or not found.any():
        raise OptionError(f"{what} holds NaN, infinity or zeros alone, and points nowhere")
    return tuple(found.tolist())


def _vectors(path: str) -> Mapping[str, np.ndarray[Any, Any]]:
    """The vectors of a file by name; rows by number.

    Raises:
        InputError: if the file cannot be read or holds none.
    """
    import numpy as np

    content = read_file(path)
    try:
        if path.endswith(".safetensors"):
            from safetensors.numpy import load

            arrays = load(content)
        else:
            arrays = {"": np.load(io.BytesIO(content), allow_pickle=False)}
    except Exception as error:  # each format has errors of its own
        raise InputError(f"{path}: is no .npy or .safetensors file ({' '.join(str(error).split())})") from None
    (only, *others) = arrays.values() or [np.zeros(0)]
    found = {str(row): only[row] for row in range(len(only))} if not others and only.ndim == 2 else arrays
    vectors = {name: values for name, values in found.items() if values.ndim == 1 and values.size}
    if not vectors:
        shapes = ", ".join(str(values.shape) for values in arrays.values()) or "nothing"
        raise InputError(f"{path}: holds no directions but {shapes}; give vectors (D,), or rows (K, D)")
    return vectors
