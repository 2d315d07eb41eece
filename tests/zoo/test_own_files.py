"""A factory in a file runs as a module that was imported, whatever else lies around it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from phosphene.classifier import Preprocess
from phosphene.errors import InputError, ModelError, NotFoundError
from phosphene.zoo import load_classifier
from tests.networks import pooled

FED = Preprocess((4, 4))
NET = "nn.Sequential(nn.Flatten(), nn.Linear(48, {classes}))"
MAKE = "from torch import nn\n\n\ndef make():\n    return " + NET + "\n"


def write(path: Path, code: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return path


def classes_of(spec: str) -> int:
    return load_classifier(spec, preprocess=FED).logits(torch.rand(1, 3, 4, 4)).shape[1]


@pytest.fixture(autouse=True)
def _left_as_it_was():
    """Neither sys.path nor sys.argv is changed by any of these."""
    path, argv = list(sys.path), list(sys.argv)
    yield
    assert sys.path == path
    assert sys.argv == argv


def test_siblings_are_imported(tmp_path):
    write(tmp_path / "mylayers_71.py", "from torch import nn\nlayer = nn.Linear(48, 5)\n")
    path = write(
        tmp_path / "net.py",
        "from torch import nn\nimport mylayers_71\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), mylayers_71.layer)\n",
    )
    assert classes_of(f"{path}:make") == 5


def test_siblings_are_imported_late_too(tmp_path):
    """An import inside the factory, or inside forward, comes long after that of the file."""
    write(tmp_path / "late_72.py", "classes = 6\n")
    write(tmp_path / "later_72.py", "factor = 2\n")
    path = write(
        tmp_path / "net.py",
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        from later_72 import factor\n"
        "        return factor * super().forward(x.flatten(1))\n"
        "def make():\n"
        "    from late_72 import classes\n"
        "    return Net(48, classes)\n",
    )
    assert classes_of(f"{path}:make") == 6


def test_two_folders_with_siblings_of_one_name(tmp_path):
    for name, classes in (("one", 3), ("two", 7)):
        write(tmp_path / name / "layers.py", f"classes = {classes}\n")
        write(tmp_path / name / "net.py", "from layers import classes\n" + MAKE.replace("{classes}", "classes"))
    one, two = f"{tmp_path}/one/net.py:make", f"{tmp_path}/two/net.py:make"
    assert [classes_of(one), classes_of(two), classes_of(one)] == [3, 7, 3]
    assert "layers" not in sys.modules


def test_a_sibling_does_not_take_the_place_of_what_is_imported_already(tmp_path):
    """A file named like a library next to the network must not break that library for everybody else."""
    import json

    write(tmp_path / "json.py", "classes = 4\n")
    path = write(tmp_path / "net.py", "import json\nassert json.dumps([1])\n" + MAKE.format(classes=4))
    assert classes_of(f"{path}:make") == 4
    assert sys.modules["json"] is json


def test_relative_imports_in_a_package(tmp_path):
    package = tmp_path / "own_73" / "nets"
    write(tmp_path / "own_73" / "__init__.py", "")
    write(tmp_path / "own_73" / "sizes.py", "classes = 8\n")
    write(package / "__init__.py", "")
    write(package / "parts.py", "from torch import nn\nflat = nn.Flatten()\n")
    path = write(
        package / "net.py",
        "from torch import nn\nfrom . import parts\nfrom ..sizes import classes\nfrom own_73.nets.parts import flat\n"
        "assert flat is parts.flat\n"
        "def make():\n    return nn.Sequential(parts.flat, nn.Linear(48, classes))\n",
    )
    assert classes_of(f"{path}:make") == 8


def test_the_file_of_a_package_itself(tmp_path):
    write(tmp_path / "own_74" / "sizes.py", "classes = 9\n")
    path = write(
        tmp_path / "own_74" / "__init__.py", "from .sizes import classes\n" + MAKE.replace("{classes}", "classes")
    )
    assert classes_of(f"{path}:make") == 9


def test_dataclasses_and_postponed_annotations(tmp_path):
    path = write(
        tmp_path / "net.py",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass, field, KW_ONLY\n"
        "from enum import Enum\n"
        "from typing import ClassVar, NamedTuple, get_type_hints\n"
        "from torch import nn\n"
        "class Kind(Enum):\n    SMALL = 3\n"
        "class Shape(NamedTuple):\n    inputs: int\n    classes: int\n"
        "@dataclass\n"
        "class Config:\n"
        "    shape: Shape\n    _: KW_ONLY\n    kind: Kind = Kind.SMALL\n    known: ClassVar[int] = 1\n"
        "assert get_type_hints(Config)['shape'] is Shape\n"
        "def make() -> nn.Module:\n"
        "    config = Config(Shape(48, 2))\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(*config.shape))\n",
    )
    assert classes_of(f"{path}:make") == 2


def test_classes_of_the_file_are_pickled_and_copied(tmp_path):
    path = write(
        tmp_path / "net.py",
        "from torch import nn\nclass Net(nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x.flatten(1))\ndef make():\n    return Net(48, 2)\n",
    )
    classifier = load_classifier(f"{path}:make", preprocess=FED)
    again = pickle.loads(pickle.dumps(classifier.module))
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(again(images), classifier.module(images))
    assert type(again) is type(classifier.module)


def test_two_files_of_one_name_and_a_file_that_changed(tmp_path):
    for name, classes in (("a", 2), ("b", 5)):
        write(tmp_path / name / "net.py", MAKE.format(classes=classes))
    first = load_classifier(f"{tmp_path}/a/net.py:make", preprocess=FED)
    assert classes_of(f"{tmp_path}/b/net.py:make") == 5
    assert first.logits(torch.rand(1, 3, 4, 4)).shape[1] == 2
    write(tmp_path / "a" / "net.py", MAKE.format(classes=11))
    assert classes_of(f"{tmp_path}/a/net.py:make") == 11


def test_a_sibling_that_changed_is_read_again(tmp_path):
    sizes = write(tmp_path / "sizes_75.py", "classes = 2\n")
    path = write(tmp_path / "net.py", "from sizes_75 import classes\n" + MAKE.replace("{classes}", "classes"))
    assert classes_of(f"{path}:make") == 2
    sizes.write_text("classes = 12  # longer, so that no stale bytecode is taken for it\n")
    assert classes_of(f"{path}:make") == 12


PARSING = """
import argparse
import sys
from torch import nn
parser = argparse.ArgumentParser()
parser.add_argument("--classes", type=int, default=3)
arguments = parser.parse_args()
assert sys.argv[1:] == []
def make():
    again = argparse.ArgumentParser().parse_args()
    return nn.Sequential(nn.Conv2d(3, arguments.classes, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def test_argparse_at_module_level_sees_no_arguments(tmp_path, monkeypatch):
    path = write(tmp_path / "net.py", PARSING)
    monkeypatch.setattr(sys, "argv", ["phosphene", "explain", "cat.jpg", "--model", f"{path}:make"])
    assert classes_of(f"{path}:make") == 3
    assert sys.argv[1] == "explain"


def test_argparse_does_not_take_over_the_command(tmp_path):
    path = write(tmp_path / "net.py", PARSING)
    done = subprocess.run(
        [sys.executable, "-m", "phosphene", "layers", "--model", f"{path}:make", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" not in done.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys\nsys.exit(3)\n", r"line 2: .*ended the program .*3"),
        ("raise SystemExit('no GPU')\n", r"line 1: .*ended the program .*no GPU"),
        (
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('--data', required=True)\np.parse_args()\n",
            r"line 4: .*ended the program",
        ),
        ("x = 1\n\ny = x / 0\n", r"line 3: ZeroDivisionError: division by zero"),
        ("def f():\n    return g()\n\nf()\n", r"line 2: NameError: name 'g' is not defined"),
        ("x = 1\nif x\n    pass\n", r"line 2: SyntaxError: expected ':'"),
        ("import no_such_module_5\n", r"line 1: ModuleNotFoundError: No module named 'no_such_module_5'"),
        ("from . import parts\n", r"line 1: ImportError"),
        ("raise KeyboardInterrupt\n", None),
        ("raise ValueError('two\\nlines')\n", r"line 1: ValueError: two"),
        ("\0", r"SyntaxError"),
        ("# coding: nonsense\n", r"SyntaxError"),
    ],
)
def test_what_fails_in_a_file_is_told_with_its_line(tmp_path, capsys, code, message):
    path = write(tmp_path / "net_76.py", code)
    with pytest.raises(KeyboardInterrupt if message is None else ModelError) as caught:
        load_classifier(f"{path}:make")
    if message is not None:
        caught.match(rf"net_76\.py.*{message}")
        assert "\n" not in str(caught.value)
        assert capsys.readouterr().out == ""


def test_what_fails_in_a_sibling_is_told_there(tmp_path):
    write(tmp_path / "bad_77.py", "a = 1\nb = a.c\n")
    path = write(tmp_path / "net.py", "import os\nimport bad_77\n")
    with pytest.raises(ModelError, match=r"net\.py cannot be imported: .*bad_77\.py, line 2: AttributeError"):
        load_classifier(f"{path}:make")
    assert "bad_77" not in sys.modules


def test_the_line_told_is_of_the_own_file_and_not_of_a_library_below_it(tmp_path, monkeypatch):
    packages = tmp_path / "venv" / "site-packages"
    write(packages / "library_80.py", "\n\n\ndef run():\n    raise OSError('no disk')\n")
    monkeypatch.syspath_prepend(packages)
    path = write(tmp_path / "net.py", "import library_80\nlibrary_80.run()\n")
    with pytest.raises(ModelError, match=r"net\.py, line 2: OSError: no disk"):
        load_classifier(f"{path}:make")
    monkeypatch.undo()


def test_what_fails_in_the_factory_is_told_with_its_line(tmp_path):
    path = write(
        tmp_path / "net.py",
        "def make():\n    size = {}['size']\n    return size\ndef end():\n    raise SystemExit(1)\n",
    )
    with pytest.raises(ModelError, match=r"make\(\) failed: .*net\.py, line 2: KeyError: 'size'"):
        load_classifier(f"{path}:make")
    with pytest.raises(ModelError, match=r"end\(\) failed: .*line 5: .*ended the program"):
        load_classifier(f"{path}:end")


def test_an_import_that_failed_can_be_tried_again(tmp_path):
    path = write(tmp_path / "net.py", "broken(\n")
    with pytest.raises(ModelError, match="SyntaxError"):
        load_classifier(f"{path}:make")
    write(path, MAKE.format(classes=2))
    assert classes_of(f"{path}:make") == 2


def test_names_that_no_import_could_write(tmp_path):
    for name in ("my-net.py", "2nets.py", "class.py", "net.v2.py", "torch.py", "mit leer zeichen.py"):
        path = write(tmp_path / name.partition(".")[0] / name, MAKE.format(classes=3))
        assert classes_of(f"{path}:make") == 3
    assert sys.modules["torch"] is torch


def test_a_file_that_needs_an_argument_says_so(tmp_path):
    path = write(tmp_path / "net.py", "def make(classes):\n    return None\n")
    with pytest.raises(ModelError, match=r"make\(\) failed: .*TypeError.*classes"):
        load_classifier(f"{path}:make")


def test_a_relative_path_is_found_from_elsewhere(tmp_path, monkeypatch):
    write(tmp_path / "nets" / "net.py", MAKE.format(classes=3))
    monkeypatch.chdir(tmp_path / "nets")
    assert classes_of("net.py:make") == 3
    monkeypatch.chdir(tmp_path)
    assert classes_of("nets/net.py:make") == 3
    with pytest.raises(NotFoundError, match=r"net\.py: no such file"):
        load_classifier("net.py:make")


def test_main_guards_do_not_run_and_the_file_knows_where_it_is(tmp_path):
    write(tmp_path / "classes.txt", "4")
    path = write(
        tmp_path / "net.py",
        "from pathlib import Path\nclasses = int((Path(__file__).parent / 'classes.txt').read_text())\n"
        + MAKE.replace("{classes}", "classes")
        + "if __name__ == '__main__':\n    raise RuntimeError('trained again')\n",
    )
    assert classes_of(f"{path}:make") == 4


def test_what_a_training_script_pickled_is_read_inside_the_factory(tmp_path):
    """A whole model saved by a script beside it names its classes by their plain module."""
    write(
        tmp_path / "layers_78.py",
        "from torch import nn\nclass Net(nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x.flatten(1))\n",
    )
    script = "import layers_78, torch\ntorch.save(layers_78.Net(48, 7), 'whole.pt')\n"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    path = write(
        tmp_path / "net.py",
        "import importlib\nfrom pathlib import Path\nimport torch\nimport layers_78\n"
        "def make():\n"
        "    net = torch.load(Path(__file__).parent / 'whole.pt', weights_only=False)\n"
        "    assert type(net) is layers_78.Net\n"
        "    assert importlib.import_module('layers_78') is layers_78\n"
        "    return net\n",
    )
    assert classes_of(f"{path}:make") == 7
    assert "layers_78" not in sys.modules


def test_what_a_file_prints_does_not_mix_with_the_answer(tmp_path, capsys):
    path = write(tmp_path / "net.py", "print('hello')\n" + MAKE.format(classes=2) + "print('there')\n")
    assert classes_of(f"{path}:make") == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "hello\nthere\n")


def test_files_that_import_each_other_and_plain_submodules(tmp_path):
    write(tmp_path / "parts_79" / "__init__.py", "")
    write(tmp_path / "parts_79" / "deep.py", "classes = 5\n")
    write(tmp_path / "back_79.py", "import net_79\ndef classes():\n    return net_79.SIZE\n")
    path = write(
        tmp_path / "net_79.py",
        "import parts_79.deep\nimport parts_79.deep as again\nfrom parts_79 import deep\nimport back_79\n"
        "assert parts_79.deep is again is deep\nSIZE = deep.classes\nfrom torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(48, back_79.classes()))\n",
    )
    assert classes_of(f"{path}:make") == 5


def test_a_folder_of_data_beside_the_file_is_no_package(tmp_path):
    write(tmp_path / "torch" / "weights.txt", "")
    write(tmp_path / "sklearn" / "notes.txt", "")
    path = write(tmp_path / "net.py", "import sklearn.cluster\n" + MAKE.format(classes=2))
    assert classes_of(f"{path}:make") == 2


def test_a_card_names_a_picture_of_means_and_the_scale_of_caffe(tmp_path):
    means = np.random.default_rng(0).uniform(90, 140, (3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "mean.npy", means)
    torch.save(pooled().state_dict(), tmp_path / "net.pt")
    card = {"size": [16, 16], "mean": "mean.npy", "scale": 255, "order": "BGR", "black": -200, "white": 4095}
    (tmp_path / "net.json").write_text(json.dumps(card))
    found = load_classifier("tests.zoo.models:network", weights=tmp_path / "net.pt").preprocess
    assert found == Preprocess((16, 16), mean=means, scale=255, order="BGR", black=-200, white=4095)
    (tmp_path / "mean.npy").write_bytes(b"text")
    with pytest.raises(InputError, match=r"mean\.npy: no array"):
        load_classifier("tests.zoo.models:network", weights=tmp_path / "net.pt")


def test_a_card_beside_the_code_says_how_its_networks_are_fed(tmp_path):
    write(tmp_path / "net.py", MAKE.format(classes=2))
    facts = {"size": [4, 4], "mean": [0.5] * 3, "std": [0.25] * 3, "labels": ["no", "yes"]}
    (tmp_path / "net.json").write_text(json.dumps(facts))
    found = load_classifier(f"{tmp_path / 'net.py'}:make")
    assert (found.preprocess.size, found.preprocess.mean, found.labels.names) == ((4, 4), (0.5,) * 3, ("no", "yes"))
    given = load_classifier(f"{tmp_path / 'net.py'}:make", preprocess=FED)
    assert given.preprocess == FED


def test_weights_without_a_card_of_their_own_are_fed_as_the_code_says(tmp_path):
    write(tmp_path / "net.py", MAKE.format(classes=2))
    (tmp_path / "net.json").write_text(json.dumps({"size": [4, 4], "labels": ["no", "yes"]}))
    torch.save(load_classifier(f"{tmp_path / 'net.py'}:make").module.state_dict(), tmp_path / "trained.pt")
    found = load_classifier(f"{tmp_path / 'net.py'}:make", weights=tmp_path / "trained.pt")
    assert (found.preprocess.size, found.labels.names) == ((4, 4), ("no", "yes"))
    (tmp_path / "trained.json").write_text(json.dumps({"size": [8, 8]}))
    assert load_classifier(f"{tmp_path / 'net.py'}:make", weights=tmp_path / "trained.pt").preprocess.size == (8, 8)
