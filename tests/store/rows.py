"""Rows as tasks make them, with arrays and pictures; a row of a key is always the same."""

from __future__ import annotations

import numpy as np
from PIL import Image

from phosphene.store import Asset, ExplainRow, LocateRow, MapRow, ObjectRow, Plan, PredictRow, TargetRow
from phosphene.store.rows import Grid, ScaleRow
from phosphene.types import Prediction, View

VIEW = View((48, 64), (16, 16), (0, 0, 16, 16))


def keys_of(count: int) -> tuple[str, ...]:
    return tuple(f"val/{number % 3}/{number:04d} é.jpg" for number in range(count))


def plan_of(count: int, **facts: object) -> Plan:
    return Plan("explain", keys_of(count), {"seed": 0, "model": {"sha256": "abc"}, **facts})


def explain_row(key: str, side: int = 16) -> ExplainRow:
    """Every 7th picture is broken."""
    number = int(key.split("/")[-1][:4])
    path = f"photos/{key}"
    columns = {"camera": "left", "age": number, "score": 0.5}
    if number % 7 == 3:
        return ExplainRow(key, path, "error", f"{path}: no such file", label="281", columns=columns)
    values = np.random.default_rng(number).normal(size=(side, side)).astype(np.float32)
    stem = f"{number:04d}"
    maps = tuple(
        MapRow(
            method,
            TargetRow(281, "tabby"),
            layer="blocks.6",
            score=float("nan") if method == "rise" else 12.5,
            map=Asset(f"{stem}/{method}.npy", values * scale),
            overlay=Asset(f"{stem}/{method}.png", Image.fromarray((values * 40 + 128).clip(0, 255).astype(np.uint8))),
            seconds=0.25,
            grid=Grid((8.0, 8.0), (16.0, 16.0), (224, 224)),
            view=VIEW,
            checks={"completeness": 0.1},
            notes=("a note",),
            scale=ScaleRow(0.0, 1.0, "positive"),
        )
        for method, scale in (("cam", 1.0), ("rise", 2.0))
    )
    predicted = (Prediction(281, "tabby", 0.75), Prediction(282, "tiger cat", 0.125))
    return ExplainRow(key, path, predicted=predicted, maps=maps, size=(48, 64), label="281", columns=columns)


def predict_row(key: str) -> PredictRow:
    return PredictRow(key, f"photos/{key}", predicted=(Prediction(1, "goldfish", 0.5),), seconds=0.1)


def locate_row(key: str) -> LocateRow:
    mask = np.zeros((48, 64), bool)
    mask[10:20, 5:40] = True
    found = ObjectRow(
        281,
        "tabby",
        0.75,
        (5.0, 10.0, 40.0, 20.0),
        mask=Asset(f"{key}/mask.png", Image.fromarray(mask)),
        map=Asset(f"{key}/map.npy", mask[::4, ::4].astype(np.float32)),
    )
    return LocateRow(key, f"photos/{key}", objects=(found,), method="cam", seconds=0.5)


COLUMN_TYPES = {"camera": "string", "age": "int64", "score": "float64"}
