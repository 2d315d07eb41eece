"""The audit runs from beginning to end on made-up pictures and a tiny network of a thousand classes."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "dogs_and_wolves.py"
NETWORK = """
import torch
from torch import nn
from phosphene import Classifier, Preprocess

def make():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 1000)]
    return Classifier(nn.Sequential(*layers).eval(), Preprocess((32, 32)))
"""


def test_the_audit_runs_and_adds_up(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for name, level in (("dogs", 40), ("wolves", 170)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(10):
            pixels = (generator.integers(0, 80, (32, 32, 3)) + level).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index}.png")
    (tmp_path / "tiny.py").write_text(NETWORK)
    out = tmp_path / "out"
    command = [str(EXAMPLE), str(tmp_path / "pictures"), "--out", str(out), "--model", f"{tmp_path / 'tiny.py'}:make"]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    figures = json.loads((out / "figures.json").read_text())
    for name, truth in (("dogs", 0), ("wolves", 1)):
        found = figures[name]
        assert found["pictures"] == sum(figures["confusion"][truth])
        assert found["right"] == figures["confusion"][truth][truth]
        wolf_calls = found["right"] if name == "wolves" else found["pictures"] - found["right"]
        assert found["wolf, called"] == wolf_calls
        for mask in ("graphcut", "cam"):
            low, high = found[f"{mask}: area outside"]["ci"]
            assert 0 <= low <= found[f"{mask}: area outside"]["mean"] <= high < 1
            assert 0 <= found[f"{mask}: wolf without animal, called"] <= found["pictures"]
    assert {"dog.jpg", "wolf.jpg", "dog_on_white.jpg"} <= {path.name for path in out.iterdir()}
