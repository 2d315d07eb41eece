"""The pages of the site: commands run, messages are real, the other libraries' calls do what the tables say."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import phosphene
from phosphene.zoo import embedded, load
from tests.cli.running import phosphene as command
from tests.docs.places import lay_out, lay_out_files, lay_out_networks
from tests.serving import redness, scores_service

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COMMAND_PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "```console\nphosphene" in page.read_text("utf-8")]
# A drawing takes minutes, and so does measuring a method on the embedded network; a few steps, or a small network, show
# that the command is spelled right and comes to its end.
SHORTER = {
    "impress": ["--steps", "2"],
    "fuse": ["--steps", "2"],
    "features": ["--steps", "2"],
    "evaluate sanity": ["--model", "small.py:make"],
    "evaluate faithfulness": ["--model", "small.py:make"],
    "batch explain": ["--model", "small.py:make", "--workers", "0"],
}


@pytest.fixture(scope="module")
def _one_embedded_classifier():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(load.SOURCES, "embedded", cache(embedded.load))
        yield


# What commands need beside what the tests bring, by what is typed.
NEEDS = {
    "hf:": ("transformers",),
    ".onnx": ("onnx", "onnxscript", "onnxruntime", "transformers"),
    ".tflite": ("ai_edge_litert",),
    ".keras": ("keras",),
    "captum:": ("captum",),
}


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)


def commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]
    assert all(line[0] == "phosphene" for line in lines)
    return [line[1:] for line in lines]


METHOD_PAGES = DOCS / "methods"  # one command each, on a picture: the contract tests run every method


@pytest.mark.slow  # (minutes in all; on a fresh installation test_readme_commands.py runs the same lines)
@pytest.mark.parametrize(
    "page",
    [page for page in COMMAND_PAGES if page.parent != METHOD_PAGES],
    ids=lambda page: str(page.relative_to(DOCS)),
)
@pytest.mark.usefixtures("pictures", "_one_embedded_classifier")
def test_commands_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out_files(Path(), page)
    if page.name == "other_networks.md":
        lay_out_networks(Path())
    lacking: dict[str, list[str]] = {}
    with scores_service(redness) as address:
        monkeypatch.setenv("SCORES", address)
        for arguments in commands(page):
            typed = shlex.join(arguments)
            packages = [name for word, names in NEEDS.items() if word in typed for name in names]
            missing = next((name for name in packages if importlib.util.find_spec(name) is None), None)
            if missing is not None:
                lacking.setdefault(missing, []).append(typed)
                continue
            shorter = SHORTER.get(arguments[0]) or SHORTER.get(" ".join(arguments[:2]), [])
            outcome = command(*arguments, *([] if "--model" in arguments else shorter))
            assert outcome.code == 0, f"phosphene {typed}: {outcome.err}"
    if lacking:
        pytest.skip("; ".join(f"{len(lines)} not run: {name} is not installed" for name, lines in lacking.items()))


@cache
def messages() -> tuple[str, ...]:
    """Every text of the library that may be an error or a warning, `…` in the places of names and numbers."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                found += [_spelled(argument) for argument in node.args]
            elif isinstance(node, ast.JoinedStr):
                found.append(_spelled(node))
    return tuple(found)


def _spelled(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_spelled(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _spelled(node.left) + _spelled(node.right)
    return "…"


TOLD = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("told", TOLD)
def test_message_is_one_of_the_library(told: str) -> None:
    pattern = re.compile(".*".join(map(re.escape, re.split("…+", told))), re.DOTALL)
    assert any(pattern.fullmatch(message) for message in messages())


def tables() -> list[Any]:
    """(setup of the section, their call, our call, what the table says) of each row."""
    text = (DOCS / "coming_from.md").read_text("utf-8")
    found = []
    for section in text.split("\n## ")[1:]:
        (setup,) = re.findall(r"^```py\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        rows = re.findall(r"^\| `(.*?)` \| `(.*?)` \| (.*?) \|$", section, re.MULTILINE)
        assert rows
        found += [pytest.param(setup, *row, id=row[0].partition("(")[0] + "-" + section.split()[0]) for row in rows]
    return found


@pytest.mark.filterwarnings("ignore")  # the other libraries'
@pytest.mark.parametrize(("setup", "theirs", "ours", "said"), tables())
def test_same_call_there_and_here(setup: str, theirs: str, ours: str, said: str) -> None:
    (start,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "coming_from.md").read_text("utf-8"), re.M | re.S)
    space: dict[str, Any] = {}
    exec(start, space)
    mine = eval(ours, space)
    package = setup.split()[1].partition(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(setup, space)
        his = torch.as_tensor(np.asarray(_plain(eval(theirs, space))))
    if not said.startswith("same"):
        return
    if said.startswith("same where positive"):
        mine = mine.clamp(min=0)
    if mine.shape != his.shape:
        mine = torch.nn.functional.interpolate(mine[:, None], his.shape[1:], mode="bilinear")[:, 0]
    for one, other in zip(mine, his, strict=True):
        both = torch.stack([one.detach().flatten().double(), other.flatten().double()])
        assert torch.corrcoef(both)[0, 1] > 0.99999


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


def site_pages() -> Any:
    spec = importlib.util.spec_from_file_location("make_site_pages", DOCS / "make_site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recipes_and_measures_are_listed() -> None:
    pages = site_pages().generated()
    recipes = {page.stem for page in (DOCS / "recipes").glob("*.md")}
    assert {"sci", "class_impression", "class_model", "fuse", "minds_eye"} <= recipes
    assert set(re.findall(r"\((\w+)\.md\)", pages["recipes/index.md"])) == recipes
    assert "## Insertion" in pages["measures.md"]


def test_links_out_of_the_docs_are_mended_for_the_site() -> None:
    relinked = site_pages().relinked
    text = "[a](../CHANGELOG.md#x) [b](zoo.md) [c](../src/phosphene/types.py) ![d](images/hero.jpg) [e](gone.md)"
    assert relinked(text, "docs/index.md", "index.md") == (
        "[a](changes.md#x) [b](zoo.md) c ![d](images/hero.jpg) [e](gone.md)"
    )
    assert relinked("[a](../benchmarks/results/cams.md)", "docs/x.md", "tasks/x.md") == "[a](../benchmarks/cams.md)"


def test_reference_has_everything_public() -> None:
    shown = set(re.findall(r"^::: phosphene\.(\w+)$", (DOCS / "reference.md").read_text("utf-8"), re.MULTILINE))
    assert shown == set(phosphene.__all__)


def test_every_page_is_reached() -> None:
    """Each page stands in the navigation, or hangs below an index that lists its folder."""
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8")))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert {page for page in pages - listed if not page.startswith(("methods/", "decisions/", "recipes/"))} == set()
