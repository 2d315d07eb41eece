"""Weights in .caffemodel files and mean pictures in .binaryproto files: the few fields needed of Caffe's messages.

No protobuf is needed: a message is a row of fields, each a number, a kind of value and the value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phosphene.errors import ModelError

# Field numbers of caffe.proto: where a network has its layers, and a layer its name and its blobs; of the message of
# the first releases and of that of later ones.
_LAYERS = {2: (4, 6), 100: (1, 7)}
_DATA, _SHAPE, _DIMENSIONS, _OLD_SHAPE = 5, 7, 1, (1, 2, 3, 4)


def read_caffemodel(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """(weight, bias (K,)) by layer, of the layers that have both.

    Weights are (K, C, h, w), of fully connected layers (K, C).

    Raises:
        ModelError: if the file cannot be read or holds no such layers.
    """
    content = _content(path)
    read: dict[str, tuple[Tensor, Tensor]] = {}
    try:
        for number, layer in _fields(content):
            if number not in _LAYERS or not isinstance(layer, bytes):
                continue
            name_field, blob_field = _LAYERS[number]
            inside = list(_fields(layer))
            names = [value for field, value in inside if field == name_field and isinstance(value, bytes)]
            blobs = [_blob(value) for field, value in inside if field == blob_field and isinstance(value, bytes)]
            if names and len(blobs) == 2:
                weight, bias = blobs
                if weight.ndim == 4 and weight.shape[:2] == (1, 1):  # fully connected, in the first releases
                    weight = weight[0, 0]
                read[names[0].decode()] = (weight, bias.flatten())
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: damaged or no caffemodel ({error})") from None
    if not read:
        raise ModelError(f"{path}: holds no layer with weights and biases")
    return read


def read_mean(path: Path) -> Tensor | None:
    """(C, h, w) the mean picture in a .binaryproto file, BGR bytes; None if there is no such file.

    Raises:
        ModelError: if it holds none.
    """
    if not path.is_file():
        return None
    try:
        mean = _blob(_content(path))
    except (struct.error, ValueError, IndexError) as error:
        raise ModelError(f"{path}: damaged or no mean picture ({error})") from None
    mean = mean[0] if mean.ndim == 4 and len(mean) == 1 else mean
    if mean.ndim != 3:
        raise ModelError(f"{path}: holds an array of shape {tuple(mean.shape)}, no mean picture (C, h, w)")
    return mean


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message: whole numbers, or bytes."""
    place = 0
    while place < len(message):
        key, place = _number(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _number(message, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _number(message, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind} at byte {place}")
        if place + size > len(message):
            raise ValueError(f"cut short at byte {place}")
        yield key >> 3, message[place : place + size]
        place += size


def _number(message: bytes, place: int) -> tuple[int, int]:
    """A whole number in seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError(f"no whole number at byte {place}")


def _blob(message: bytes) -> Tensor:
    """The array in a BlobProto."""
    old: dict[int, int] = {}
    shape: list[int] = []
    parts: list[bytes] = []
    for field, value in _fields(message):
        if field == _DATA and isinstance(value, bytes):
            parts.append(value)
        elif field in _OLD_SHAPE and isinstance(value, int):
            old[field] = value
        elif field == _SHAPE and isinstance(value, bytes):
            shape = _dimensions(value)
    values = np.frombuffer(b"".join(parts), "<f4")
    wanted = shape or [old.get(field, 1) for field in _OLD_SHAPE]
    return torch.from_numpy(values.reshape(wanted).copy())


def _dimensions(message: bytes) -> list[int]:
    sizes: list[int] = []
    for field, value in _fields(message):
        if field != _DIMENSIONS:
            continue
        place = 0
        while isinstance(value, bytes) and place < len(value):
            size, place = _number(value, place)
            sizes.append(size)
        if isinstance(value, int):
            sizes.append(value)
    return sizes
