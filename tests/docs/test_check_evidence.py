"""The check of a model: passes for the model that was agreed upon, fails for one that looks elsewhere."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "check_evidence.py"
# Two networks that are right alike: one sums over all that is bright, the other looks at the corner.
NETWORK = """
import torch
from torch import nn
from phosphene import Classifier, Preprocess

class Weighed(nn.Module):
    def __init__(self, corner):
        super().__init__()
        self.light = nn.Conv2d(3, 1, 1, bias=False)
        self.light.weight.data.fill_(1 / 3)
        self.where = torch.zeros(1, 1, 32, 32)
        self.where[..., :8, :8] = 1
        self.where = self.where if corner else 1 - self.where

    def forward(self, images):
        light = (torch.relu(self.light(images)) * self.where).mean((2, 3))
        return torch.cat([light, -light], dim=1)

def made(corner):
    return Classifier(Weighed(corner).eval(), Preprocess((32, 32)), ["bright", "dark"])

def good():
    return made(False)

def bad():
    return made(True)
"""


@pytest.fixture
def check(tmp_path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("check_evidence", EXAMPLE)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "val").mkdir()
    lines = ["file,class,x0,y0,x1,y1"]
    for number in range(3):
        pixels = np.full((64, 96, 3), 10 + number, np.uint8)
        pixels[24:56, 40:80] = 240
        Image.fromarray(pixels).save(tmp_path / "val" / f"{number}.png")
        lines.append(f"{number}.png,bright,40,24,80,56")
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")

    def run(network: str, *further: str) -> int:
        places = ["--images", str(tmp_path / "val"), "--boxes", str(tmp_path / "boxes.csv")]
        agreed = ["--agreed", str(tmp_path / "agreed.json"), "--method", "input_x_gradient"]
        code: int = module.main(["--model", f"{tmp_path / 'net.py'}:{network}", *places, *agreed, *further])
        return code

    return run


def test_a_model_that_looks_elsewhere_fails(check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("good", "--keep") == 0
    agreed = json.loads((tmp_path / "agreed.json").read_text())
    assert list(agreed) == [f"{number}.png: bright" for number in range(3)]
    assert max(agreed.values()) < 0.2
    assert check("good") == 0
    assert check("bad") == 1
    assert "risen by" in capsys.readouterr().err


def test_nothing_to_compare_is_no_success(check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agreed.json").write_text("{}")
    assert check("good") == 2
    assert "no picture in common" in capsys.readouterr().err
