"""What another package adds is found by its entry points, on first use, and works as our own does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLE = Path(__file__).parent / "example"

# One process runs several pieces of code, each with names of its own; what one raises stands in its own answer.
EACH = """
import traceback
for name, code in {codes!r}.items():
    print("==", name)
    try:
        exec(code, {{}})
    except SystemExit as end:
        print("exit", end.code or 0)
    except Exception:
        print(traceback.format_exc())
"""


def answers(codes: dict[str, str], *, installed: bool = True) -> dict[str, list[str]]:
    """The lines that each of several pieces of code prints in a new process that has the example package, or not."""
    paths = [*([str(EXAMPLE)] if installed else []), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", EACH.format(codes=codes)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split("== ")[1:]
    return {name: lines for name, *lines in (text.splitlines() for text in texts)}


NETWORK = """
import sys, torch, phosphene
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
classifier = phosphene.Classifier(net, phosphene.Preprocess((8, 8), mean=(0.5,) * 3, std=(0.2,) * 3))
"""


# (The first is asked where nothing of the package is imported yet; each kind has an entry point group of its own.)
IN_PYTHON = {
    "method": """
print("phosphene_example" in sys.modules)
result = phosphene.attribute(classifier, torch.rand(2, 3, 8, 8), 1, "absolute_gradient:power=2")
print(result.spec, tuple(result.maps.shape), bool((result.maps >= 0).all()))
print(phosphene.methods()["absolute_gradient"].options["power"].doc)
""",
    "recipe": """
print(phosphene.methods("recipe")["plain_ascent"].presets)
first, = phosphene.impress(classifier, 1, "plain_ascent", batch_size=1)
second, = phosphene.impress(classifier, 1, "plain_ascent", preset="long", steps=7)
print(first.preset, first.steps, second.preset, second.steps, second.spec, second.scores[-1] > second.scores[0])
""",
    "target": """
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
""",
    "source and sink": """
from phosphene.runtime import prepare
from phosphene.sources import open_source
from phosphene.store import Plan, open_sink
from phosphene.tasks import PredictConfig
import tempfile, pathlib
source = open_source("shades:3")
place = pathlib.Path(tempfile.mkdtemp()) / "rows.txt"
for resume in (False, True):
    with open_sink("lines", str(place), Plan("predict", tuple(source.keys())), resume=resume) as sink:
        items = list(source.items(skip=sink.done))
        for row in PredictConfig().run(prepare(classifier), items):
            sink.write(row)
print(len(items), place.read_text().splitlines() == ["0.png\\tok", "1.png\\tok", "2.png\\tok"])
""",
    "metric": """
found = phosphene.methods("metric")["brightness"]
print(found.title, found.function(torch.ones(2, 3, 4, 4)).tolist())
""",
}


@pytest.fixture(scope="module")
def in_python():
    return answers({name: NETWORK + code for name, code in IN_PYTHON.items()})


@pytest.fixture(scope="module")
def on_the_command_line(tmp_path_factory):
    """What four commands print in a process of their own, and the folder of their runs."""
    place = tmp_path_factory.mktemp("commands")
    picture = place / "picture.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    commands = {
        "methods": ["methods", "--json"],
        "source": ["predict", "shades:2", "--out", str(place / "predict"), "--json"],
        "target": ["explain", str(picture), "--group", "tabby+lynx", "--method", "saliency", "--json"],
        "help": ["impress", "--help"],
    }
    commands["target"] += ["--out", str(place / "explain")]
    code = "import sys; from phosphene.cli import main; sys.argv = ['phosphene', *{}]; main()"
    return answers({name: code.format(given) for name, given in commands.items()}), place


def test_a_method_of_another_package_is_found_on_first_use(in_python):
    assert in_python["method"] == [
        "False",
        "absolute_gradient:power=2.0 (2, 8, 8) True",
        "of the magnitudes.",
    ]


def test_a_recipe_of_another_package_brings_its_own_presets(in_python):
    assert in_python["recipe"] == ["('quick', 'long')", "quick 4 long 7 plain_ascent:preset=long,steps=7 True"]


def test_a_kind_of_target_of_another_package_goes_where_ours_go(in_python):
    assert in_python["target"] == ["[True, True, True]", "True", "True", "True True"]


def test_a_source_and_a_sink_of_another_package(in_python):
    assert in_python["source and sink"] == ["0 True"]


def test_a_metric_of_another_package(in_python):
    assert in_python["metric"] == ["Brightness [1.0, 1.0]"]


def test_commands_take_a_source_by_its_name(on_the_command_line):
    said, _ = on_the_command_line
    images = json.loads(said["source"][0])["images"]
    assert [image["path"] for image in images] == ["shades:2/0.png", "shades:2/1.png"]


def test_the_commands_take_a_target_as_an_option(on_the_command_line):
    said, place = on_the_command_line
    (row,) = json.loads(said["target"][0])["images"][0]["maps"]
    assert row["target"] == {"index": None, "label": "tabby or lynx"}
    assert row["status"] == "ok"
    assert "tabby or lynx" in (place / "explain" / "report.html").read_text()
    assert "--group CLASS+CLASS" in " ".join(said["help"]).replace("  ", " ")


def test_the_command_knows_them(on_the_command_line):
    said, _ = on_the_command_line
    names = {row["name"] for row in json.loads(said["methods"][0])["methods"]}
    assert {"absolute_gradient", "plain_ascent", "cam", "sci"} <= names


def test_without_the_package_they_are_unknown():
    code = """
try:
    phosphene.attribute(classifier, torch.rand(1, 3, 8, 8), 1, "absolute_gradient")
except phosphene.NotFoundError as error:
    print(str(error).startswith("no attribution method 'absolute_gradient'"))
"""
    assert answers({"method": NETWORK + code}, installed=False) == {"method": ["True"]}
