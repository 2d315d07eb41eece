"""From raw maps to an Attribution: the common facts filled in, and maps that say nothing named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from phosphene.errors import OptionError
from phosphene.targets import Target
from phosphene.types import Attribution, Size

# The part of a score's difference by which the sum of a map may be off without a word.
_MISSED = 0.1


def attribution(
    maps: Tensor,
    images: Tensor,
    target: Target,
    score: Tensor,
    *,
    grid: tuple[tuple[float, float], tuple[float, float]] | None = None,
    evidence: Tensor | None = None,
    **facts: Any,
) -> Attribution:
    """An Attribution of maps (N, h, w) for images (N, C, H, W); the registry's facts are added by `attribute`.

    Args:
        maps: raw values.
        images: what was explained.
        target: the target, not yet expanded to N.
        score: (N,) on the clean images.
        grid: (offset, stride) of the cells in network pixels; default: the maps cover the whole image evenly.
        evidence: (N, H, W) what is laid on the picture instead of the maps.
        **facts: further fields of Attribution.

    Raises:
        OptionError: for maps or scores of another shape.
    """
    size = sides(images)
    _check(maps, "maps (N, h, w)", 3, len(images))
    _check(score, "scores (N,)", 1, len(images))
    if evidence is not None:
        _check(evidence, "evidence (N, H, W)", 3, len(images))
    offset, stride = grid or even_grid(size, sides(maps))
    maps, score = plain(maps), plain(score)
    heat = maps if evidence is None else plain(evidence)
    return Attribution(
        maps=maps,
        target=target.expand(len(images)),
        score=score,
        spec=facts.pop("spec", ""),
        offset=offset,
        stride=stride,
        size=size,
        evidence=None if evidence is None else heat,
        problems=tuple(_problem(low, high, value, facts.get("layer")) for low, high, value in _extremes(heat, score)),
        **facts,
    )


def _check(values: Any, what: str, axes: int, count: int) -> None:
    if isinstance(values, Tensor) and values.ndim == axes and len(values) == count:
        return
    given = f"of shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"as {type(values).__name__}"
    raise OptionError(f"an attribution of {count} images takes {what} as a tensor, one for each; they came {given}")


def plain(values: Tensor) -> Tensor:
    """float32 values without a history, which can be used anywhere even if they were made in inference mode."""
    with torch.inference_mode(False):
        values = values.detach().float()
        return values.clone() if values.is_inference() else values


def sides(values: Tensor) -> Size:
    """(height, width) of images or maps."""
    return int(values.shape[-2]), int(values.shape[-1])


def even_grid(size: tuple[int, int], cells: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(offset, stride) of a grid of cells that divides the image evenly.

    Example:
        >>> even_grid((224, 224), (7, 7))
        ((16.0, 16.0), (32.0, 32.0))
    """
    stride = (size[0] / cells[0], size[1] / cells[1])
    return (stride[0] / 2, stride[1] / 2), stride


def _extremes(heat: Tensor, score: Tensor) -> list[list[float]]:
    """[lowest, highest value, score] of each map, NaN if there is any; fetched from the device at once."""
    low, high = heat.flatten(1).aminmax(dim=1)
    found: list[list[float]] = torch.stack([low, high, score.to(heat)], dim=1).tolist()
    return found


def _problem(low: float, high: float, score: float, layer: str | None) -> str | None:
    where = f" at layer {layer}" if layer else ""
    says_nothing = not math.isfinite(score)
    if not (math.isfinite(low) and math.isfinite(high)):
        if says_nothing:
            return f"the map holds NaN or infinity: the network's own score is {score} for this image"
        return f"the map holds NaN or infinity{where} although the score is {score:.4g}: some operation overflows"
    if low == high == 0:
        cancelled = ", or its gradients cancel over the places (as before a norm or a softmax over them)"
        return (
            f"the map is zero everywhere{where}: the score ({score:.4g}) does not change with anything it looks at; "
            f"the path is saturated or dead, or the target does not depend on it{cancelled if layer else ''}; "
            f"try score logit{', another layer or hires_cam' if layer else ' or another layer'}"
        )
    if says_nothing:
        return f"the network's own score is NaN or infinite ({score}) for this image; the map does not depend on it"
    return None


def adding_up(sums: Tensor, wanted: Tensor, more: str) -> dict[str, Any]:
    """What is told of maps whose values are to add up: the check, and a note where one is off by more than a tenth.

    Args:
        sums: (N,) of the maps' values.
        wanted: (N,) what they are to be.
        more: what there has to be more of.

    Example:
        >>> adding_up(torch.tensor([1.8]), torch.tensor([1.0]), "steps")["notes"]
        ("the map's values add up to 1.8 and the score differs by 1: more steps bring them together",)
    """
    pairs = list(zip(sums.tolist(), wanted.tolist(), strict=True))
    found, due = max(pairs, key=lambda pair: abs(pair[0] - pair[1]) / max(abs(pair[1]), 1e-12))
    of_one = " in one of the pictures" if len(pairs) > 1 else ""
    note = (
        f"the map's values add up to {found:.3g} and the score differs by {due:.3g}{of_one}: "
        f"more {more} bring them together"
    )
    notes = (note,) if abs(found - due) > _MISSED * abs(due) else ()
    return {"checks": per_image(completeness_error=(sums - wanted.to(sums)).abs()), "notes": notes}


def per_image(**checks: Tensor) -> Mapping[str, tuple[float, ...]]:
    """Self-checks as plain numbers, one per image."""
    return {name: tuple(values.detach().flatten().tolist()) for name, values in checks.items()}
