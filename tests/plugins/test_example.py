"""Another package's method and recipe are found by its entry points, on first use, and work as our own do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

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


def test_a_kind_of_target_of_another_package_goes_where_ours_go():
    code = """
from phosphene_example.group import Group
images, both = torch.rand(2, 3, 8, 8), Group((0, 1))
given = images.clone().requires_grad_()
logits = net((given - 0.5) / 0.2)
expected, = torch.autograd.grad(logits.logsumexp(1).sum(), given)
found = phosphene.explain(classifier, images, ["input_x_gradient", "grad_cam", "occlusion:window=4"], target=both)
print([result.target == both for result in found])
print(bool(torch.allclose(found[0].maps, (expected * images).sum(1), atol=1e-5)))
print(bool(torch.allclose(found[2].score, logits.logsumexp(1), atol=1e-5)))
made, = phosphene.impress(classifier, both, "class_model", preset="paper", steps=5)
print(made.target == both, made.scores[-1] > made.scores[0])
"""
    assert answer(NETWORK + code) == ["[True, True, True]", "True", "True", "True True"]


def test_the_commands_take_it_as_an_option(tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    code = "import sys; from phosphene.cli import main; sys.argv = ['phosphene', *{}]; main()"
    given = ["explain", str(picture), "--group", "tabby+lynx", "--method", "saliency", "--out", str(tmp_path / "run")]
    (row,) = json.loads(answer(code.format([*given, "--json"]))[-1])["images"][0]["maps"]
    assert row["target"] == {"index": None, "label": "tabby or lynx"}
    assert row["status"] == "ok"
    assert "tabby or lynx" in (tmp_path / "run" / "report.html").read_text()
    assert "--group CLASS+CLASS" in " ".join(answer(code.format(["impress", "--help"]))).replace("  ", " ")


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
