"""Every `phosphene` line of the README and of the docs, as printed, on a fresh installation.

Slow (the images of `impress` alone take minutes): `make test-commands` runs it, `make test` does not. The environment
is made anew with pip, which needs a network: first without any extra, then with each extra that lines ask for.
PHOSPHENE_PYTHON names a Python that is used instead, as it is.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.docs.places import ROOT, lay_out, lay_out_archives, lay_out_files
from tests.serving import redness, scores_service

pytestmark = pytest.mark.slow

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a page names that everybody has a name of their own for.
PLACES = {
    **dict.fromkeys(["cat.jpg", "dog.jpg", "wolf.jpg"], "photo.jpg"),
    **dict.fromkeys(["FOLDER", "DIR", "val/", "photos/churches", "photos/screws"], "holiday"),
    "net.py:make": "small.py:make",
    "val/**/*.jpg": "holiday/**/*.jpg",
    **dict.fromkeys(["dogs_and_wolves/", "dogs_vs_wolves"], "animals"),
}
# The extra that a line asks for, by what stands in it; in this order they are installed. The page comes last, as Gradio
# wants an older Pillow than all the rest.
EXTRAS = {
    "batch": r"phosphene (batch|report) ",
    "captum": r"captum:",
    "lite": r"embedded:lite",
    "hf,onnx,tflite,keras": r"hf:|\.onnx|\.tflite|\.keras",
    "web": r"phosphene web",
}
# To make the networks of other kinds: what only writes ONNX files, and the tests' own modules.
BESIDE = {"hf,onnx,tflite,keras": ["onnx", "onnxscript", "pytest"]}
MAKE_NETWORKS = "from pathlib import Path; from tests.docs.places import lay_out_networks; lay_out_networks(Path())"
SECONDS = 1800


def commands() -> list[tuple[str, str]]:
    """(page, line) of every line that calls the command, without the comment behind it; by the extra that it needs."""
    found = [
        (str(page.relative_to(ROOT)), re.split(r"\s{2,}#", line)[0].strip())
        for page in PAGES
        if "decisions" not in page.parts
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r" {0,4}phosphene [a-z]", line)
    ]
    order = [None, *EXTRAS]
    return sorted(dict.fromkeys(found), key=lambda one: order.index(extra(one[1])))


def extra(line: str) -> str | None:
    """The last extra that a line needs; None for none."""
    return next((name for name, words in reversed(EXTRAS.items()) if re.search(words, line)), None)


@dataclass
class Fresh:
    """A Python in which phosphene was just installed, and a folder with all that the pages name."""

    python: str
    place: Path
    extras: list[str | None] = field(default_factory=lambda: [None])

    def needs(self, extra: str | None) -> None:
        """Install an extra, as a user would who was told to; what is made with it is made."""
        if extra in self.extras:
            return
        self.extras.append(extra)
        if "PHOSPHENE_PYTHON" not in os.environ:
            install(self.python, f"{ROOT}[{extra}]", *BESIDE.get(str(extra), []), web=extra == "web")
        if extra == "hf,onnx,tflite,keras":
            self.run("-c", MAKE_NETWORKS, PYTHONPATH=str(ROOT))
        if extra == "web":
            self.run("-m", "phosphene", "explain", "holiday", "--out", "runs/holiday", "--overwrite")

    def run(self, *arguments: str, **environment: str) -> None:
        """Run this Python in the folder; it has to end well."""
        done = subprocess.run(
            [self.python, *arguments], cwd=self.place, capture_output=True, text=True, timeout=SECONDS, check=False,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stderr}"

    def serve(self, *arguments: str) -> None:
        """Start the page, ask it how it is once it says where it is, and end it."""
        server = subprocess.Popen([self.python, *arguments], cwd=self.place, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        watchdog = threading.Timer(300, server.kill)
        watchdog.start()
        try:
            found = (re.search(r"http://\S+", line) for line in server.stderr)
            address = next((match[0] for match in found if match), None)
            assert address, f"{shlex.join(arguments)} ended without an address"
            with urllib.request.urlopen(f"{address.rstrip('/')}/healthz", timeout=60) as answer:
                assert answer.status == 200
        finally:
            watchdog.cancel()
            server.terminate()
            server.wait(30)
            server.stderr.close()


def install(python: str, *what: str, web: bool = False) -> None:
    """With pip, in the versions that are tested."""
    versions = ROOT / ("constraints-web.txt" if web else "constraints.txt")
    command = [python, "-m", "pip", "install", "--quiet", "--constraint", str(versions), *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(what)} cannot be installed: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def service() -> Iterator[None]:
    """What a page's service answers, where its lines look for it."""
    with scores_service(redness) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCORES", address)
        yield


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, service: None) -> Fresh:
    place = tmp_path_factory.mktemp("first hour")
    lay_out(place)
    lay_out_archives(place)
    for page in PAGES:
        lay_out_files(place, page)
    if "PHOSPHENE_PYTHON" in os.environ:
        return Fresh(os.environ["PHOSPHENE_PYTHON"], place)
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    install(python, str(ROOT))
    return Fresh(python, place)


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda text: text)
def test_line_runs_as_printed(page: str, line: str, fresh: Fresh) -> None:
    fresh.needs(extra(line))
    for call in line.split(" && "):
        words = ["-m", *(PLACES.get(word, word) for word in shlex.split(call.partition(" > ")[0]))]
        if "web" in words:
            fresh.serve(*words)
            continue
        if "--resume" not in words and "--out" in words:
            words.append("--overwrite")
        fresh.run(*words)
