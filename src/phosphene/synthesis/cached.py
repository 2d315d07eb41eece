"""Tables that are costly to make again, in the user's cache."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from phosphene.errors import OutputError
from phosphene.files import write_whole


def read_table(place: Traversable) -> dict[str, Tensor] | None:
    """The values in a file by name; None where there is none, or one that is damaged."""
    if not place.is_file():
        return None
    try:
        with place.open("rb") as opened, np.load(opened, allow_pickle=False) as table:
            return {name: torch.from_numpy(table[name].astype(np.float32)) for name in table.files}
    except (OSError, ValueError, EOFError, BadZipFile):
        return None


def keep_table(place: Path, values: Mapping[str, Tensor]) -> None:
    """Keep values by name; where nothing can be written they are made anew next time."""
    content = io.BytesIO()
    np.savez_compressed(content, **{name: value.numpy() for name, value in values.items()})  # type: ignore[arg-type]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(str(place.parent), place.name, content.getvalue())
    except (OSError, OutputError):
        return
