"""Another package's method and recipe are found by its entry points, on first use, and work as our own do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent / "example"


def answer(code: str, *, installed: bool = True) -> list[str]:
    """What a new process prints that has the example package installed, or not."""
    paths = [*([str(EXAMPLE)] if installed else []), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


NETWORK = """
import sys, torch, phosphene
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
classifier = phosphene.Classifier(net, phosphene.Preprocess((8, 8), mean=(0.5,) * 3, std=(0.2,) * 3))
"""


def test_a_method_of_another_package_is_found_on_first_use():
    code = """
print("phosphene_example" in sys.modules)
result = phosphene.attribute(classifier, torch.rand(2, 3, 8, 8), 1, "absolute_gradient:power=2")
print(result.spec, tuple(result.maps.shape), bool((result.maps >= 0).all()))
print(phosphene.methods()["absolute_gradient"].options["power"].doc)
"""
    assert answer(NETWORK + code) == [
        "False",
        "absolute_gradient:power=2.0 (2, 8, 8) True",
        "of the magnitudes.",
    ]


def test_a_recipe_of_another_package_brings_its_own_presets():
    code = """
print(phosphene.methods("recipe")["plain_ascent"].presets)
first, = phosphene.impress(classifier, 1, "plain_ascent", batch_size=1)
second, = phosphene.impress(classifier, 1, "plain_ascent", preset="long", steps=7)
print(first.preset, first.steps, second.preset, second.steps, second.spec, second.scores[-1] > second.scores[0])
"""
    assert answer(NETWORK + code) == ["('quick', 'long')", "quick 4 long 7 plain_ascent:preset=long,steps=7 True"]


def test_the_command_knows_them():
    code = "import sys; from phosphene.cli import main; sys.argv = ['phosphene', 'methods', '--json']; main()"
    names = {row["name"] for row in json.loads(answer(code)[-1])["methods"]}
    assert {"absolute_gradient", "plain_ascent", "cam", "sci"} <= names


def test_without_the_package_they_are_unknown():
    code = """
try:
    phosphene.attribute(classifier, torch.rand(1, 3, 8, 8), 1, "absolute_gradient")
except phosphene.NotFoundError as error:
    print(str(error).startswith("no attribution method 'absolute_gradient'"))
"""
    assert answer(NETWORK + code, installed=False) == ["True"]
