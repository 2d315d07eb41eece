"""Every `phosphene` line of the README and of the docs, as printed, on a fresh installation without any extra.

Slow (the images of `impress` alone take minutes): `make test-commands` runs it, `make test` does not. The environment
is made anew with pip, which needs a network; PHOSPHENE_PYTHON names a Python that is used instead.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import chelsea, coffee

from tests.docs.test_site import FILES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a page names that everybody has a name of their own for.
PLACES = {
    "photo.jpg": "photo.jpg",
    "cat.jpg": "photo.jpg",
    "dog.jpg": "photo.jpg",
    "wolf.jpg": "photo.jpg",
    "holiday/": "holiday",
    "holiday": "holiday",
    "FOLDER": "holiday",
    "DIR": "holiday",
    "val/": "holiday",
    "photos/churches": "holiday",
    "dogs_and_wolves/": "animals",
    "dogs_vs_wolves": "animals",
}

# What is not there without extras, or without a service.
ELSEWHERE = {
    "captum:": "captum is an extra",
    "hf:": "transformers is an extra",
    ".onnx": "onnxruntime is an extra",
    ".tflite": "LiteRT is an extra",
    "service.py": "it asks a service",
}


def commands() -> list[tuple[str, str]]:
    """(page, line) of every line that calls the command, without the comment behind it."""
    found = [
        (str(page.relative_to(ROOT)), line.partition("    #")[0].strip())
        for page in PAGES
        if "decisions" not in page.parts
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r" {0,4}phosphene [a-z]", line)
    ]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with all that the pages name."""
    folder = tmp_path_factory.mktemp("first hour")
    Image.fromarray(chelsea()).save(folder / "photo.jpg")
    for name, pictures in {
        "holiday": [(chelsea, 0), (coffee, 0), (chelsea, 30), (coffee, 30), (chelsea, 60)],
        "animals/cats": [(chelsea, cut) for cut in range(0, 50, 5)],
        "animals/cups": [(coffee, cut) for cut in range(0, 50, 5)],
    }.items():
        (folder / name).mkdir(parents=True)
        for number, (picture, cut) in enumerate(pictures):
            Image.fromarray(picture()[cut:, cut:]).save(folder / name / f"{number}.jpg")
    boxes = "".join(f"{number}.jpg,281,10,10,200,200\n" for number in range(5))
    (folder / "boxes.csv").write_text("file,class_index,x0,y0,x1,y1\n" + boxes)
    (folder / "people.csv").write_text("path,age\nphoto.jpg,31\nholiday/1.jpg,64\n")
    for name, code in FILES.findall((ROOT / "docs" / "inputs_and_outputs.md").read_text(encoding="utf-8")):
        (folder / name).write_text(code)
    (folder / "shards").mkdir()
    for number in range(10):
        with tarfile.open(folder / "shards" / f"{number:03d}.tar", "w") as shard:
            shard.add(folder / "photo.jpg", f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """A Python with phosphene and no extra."""
    if "PHOSPHENE_PYTHON" in os.environ:
        return os.environ["PHOSPHENE_PYTHON"]
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    own = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = [own, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", str(ROOT)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no fresh environment: {done.stderr.strip().splitlines()[-1]}")
    return str(own)


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda text: text)
def test_line_runs_as_printed(page: str, line: str, python: str, place: Path) -> None:
    for call in line.split(" && "):
        words = [PLACES.get(word, word) for word in shlex.split(call.partition(" > ")[0])]
        needs = next((what for word, what in ELSEWHERE.items() if any(word in one for one in words)), None)
        if needs is not None:
            pytest.skip(f"{needs}; tests/docs/test_site.py runs it")
        if "--resume" not in words and "--out" in words:
            words.append("--overwrite")
        done = subprocess.run([python, "-m", *words], cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}: {call}\n{done.stderr}"
