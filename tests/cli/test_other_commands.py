from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from importlib import import_module

import numpy as np
import pytest
import typer
from PIL import Image
from skimage.data import chelsea
from typer.testing import CliRunner

from phosphene import __version__, load_classifier
from phosphene.runs.common_options import CommonOptions, asked
from tests.cli.running import keys, partial_files, phosphene

# The module: of its package the application goes by that name.
cli = import_module("phosphene.cli.app")


@pytest.fixture
def cat(tmp_path):
    path = tmp_path / "cat.jpg"
    Image.fromarray(chelsea()).save(path, quality=90)
    return path


@dataclass(frozen=True)
class WithNote(CommonOptions):
    note: str = asked(str, "none", "Something that is written down.", metavar="TEXT")


def test_a_common_option_is_a_field_of_common(monkeypatch):
    """All that one more costs: it is taken by a command and handed over, and stands in its help."""
    own = {item.name: cli._common_option(item) for item in fields(WithNote) if "option" in item.metadata}
    monkeypatch.setattr(cli, "_COMMON", own)
    monkeypatch.setattr(cli, "CommonOptions", WithNote)
    small, seen = typer.Typer(rich_markup_mode=None), []

    @cli.command(small, "show", writes="a note")
    def show(common: CommonOptions) -> cli.Answer:
        seen.append((common.note, common.seed, common.report))
        return cli.Answer({}, "")

    runner = CliRunner()
    assert runner.invoke(small, ["--note", "kept", "--seed", "7"]).exit_code == 0
    assert runner.invoke(small, []).exit_code == 0
    assert seen == [("kept", 7, None), ("none", 0, None)]
    assert "--note TEXT" in runner.invoke(small, ["--help"]).stdout


def test_activations(tmp_path, cat):
    run = tmp_path / "run"
    outcome = phosphene(
        "activations", cat, "--layer", "blocks.2", "--layer", "head", "--channel", 3, "--out", run, "--json"
    )
    assert outcome.code == 0
    answer = outcome.json
    keys(answer, ["run", "layers"])
    assert [row["layer"] for row in answer["layers"]] == ["blocks.2", "head"]
    for row, shape in zip(answer["layers"], ([24, 56, 56], [1280, 7, 7]), strict=True):
        keys(row, ["layer", "shape", "channels", "picture", "array"])
        values = np.load(row["array"])
        assert row["shape"] == list(values.shape) == shape
        assert len(row["channels"]) == shape[0]
        for channel in row["channels"]:
            keys(channel, ["index", "mean", "max"])
            assert channel["mean"] == pytest.approx(float(values[channel["index"]].mean()), abs=1e-5)
            assert channel["max"] == pytest.approx(float(values[channel["index"]].max()), abs=1e-5)
        with Image.open(row["picture"]) as picture:
            picture.load()
    assert not partial_files(run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "blocks.77"], "no layer 'blocks.77'"),
        (["--layer", "head", "--channel", "1280"], "no channel 1280 in layer head; it has 1280"),
        (["--count", "0"], "greater than or equal to 1"),
    ],
)
def test_activations_usage(tmp_path, cat, arguments, message):
    outcome = phosphene("activations", cat, *arguments, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert message in outcome.err


def test_activations_of_a_broken_picture(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    outcome = phosphene("activations", tmp_path / "text.jpg", "--out", tmp_path / "run", "--json")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "text.jpg" in outcome.json["error"]
    assert not (tmp_path / "run").exists() or not partial_files(tmp_path / "run")


def test_methods():
    rows = phosphene("methods", "--json").json["methods"]
    names = [row["name"] for row in rows]
    assert {"saliency", "occlusion", "cam", "grad_cam", "rise", "input_x_gradient"} <= set(names)
    for row in rows:
        assert row["title"]
        assert all(option["doc"] for option in row["options"])
    one = phosphene("methods", "occlusion")
    assert "window" in one.out
    missing = phosphene("methods", "oclusion")
    assert missing.code == 2
    assert "did you mean 'occlusion'" in missing.err


def test_layers():
    answer = phosphene("layers", "--json").json
    assert answer["default"] == "head"
    names = [row["name"] for row in answer["layers"]]
    assert names.index("stem") < names.index("blocks.0") < names.index("blocks.15") < names.index("head")
    assert [row["order"] for row in answer["layers"]] == list(range(len(names)))


@pytest.mark.parametrize(("query", "index"), [("281", 281), ("n02123045", 281), ("tabby", 281), ("Egyptian", 285)])
def test_classes(query, index):
    answer = phosphene("classes", query, "--json").json
    assert answer["classes"][0]["index"] == index
    keys(answer["classes"][0], ["index", "id", "label", "synonyms"])


def test_classes_of_no_or_all_names():
    outcome = phosphene("classes", "tabbi")
    assert outcome.code == 2
    assert "did you mean 'tabby'" in outcome.err
    assert outcome.err.count("\n") == 1
    assert phosphene("classes", "5000").code == 2
    assert len(phosphene("classes", "--json").json["classes"]) == 1000


def test_report_of_what_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        outcome = phosphene("report", path)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert str(path) in outcome.err


def test_version_and_help():
    assert phosphene("--version").out.strip() == f"phosphene {__version__}"
    for command in ("explain", "activations", "methods", "layers", "classes", "report", "demo"):
        outcome = phosphene(command, "--help")
        assert outcome.code == 0
        assert "--json" in outcome.out
    assert phosphene("nonsense").code == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_the_console_cannot_write_is_spelled_out(tmp_path, encoding):
    model = made_with_labels(tmp_path, ["kočka", "pes"])
    done = CliRunner(charset=encoding).invoke(cli.app, ["classes", "--model", model])
    assert done.exit_code == 0
    expected = "kočka" if encoding == "utf-8" else "ko\\u010dka"
    assert expected in done.stdout_bytes.decode(encoding)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_a_full_disk_behind_standard_output_is_one_line(capfd):
    """In a process of its own, which writes once more as it ends; and in this one what is written for people."""
    said = "phosphene: standard output: No space left on device\n"
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "phosphene", "methods", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.decode() == said
    with open("/dev/full", "w") as full, redirect_stdout(full), pytest.raises(SystemExit, match="1"):
        cli.app(["methods"])
    assert capfd.readouterr().err == said


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_service_without_standard_output_or_error_is_served(tmp_path, closed):
    model = made_with_labels(tmp_path, ["cat", "dog"])
    script = f"{sys.executable} -m phosphene classes --model {model} {closed}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def made_with_labels(folder, labels):
    (folder / "net.py").write_text(
        "from phosphene import Classifier\nfrom torch import nn\n"
        f"def make():\n    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        f"    return Classifier(net, labels={labels!r})\n",
        encoding="utf-8",
    )
    return f"{folder / 'net.py'}:make"


def test_the_command_is_light_until_it_works():
    """Help imports neither torch nor numpy; a reader of a pipe who has had enough is no failure."""
    code = (
        "import sys; from phosphene.cli import app\n"
        "try: app(['explain', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'PIL', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for more in ("", "--json"):
        unread = f"{sys.executable} -m phosphene methods {more} | true"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", unread], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    script = f"{sys.executable} -m phosphene classes | head -1"
    piped = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, check=False)
    assert "Traceback" not in piped.stderr
    assert piped.stdout.startswith("0 n01440764 tench")


def test_filters_are_drawn_in_the_colors_they_answer_to(tmp_path):
    outcome = phosphene("filters", "--out", tmp_path / "run", "--json")
    assert outcome.code == 0
    answer = outcome.json
    keys(answer, ["run", "report", "layer", "shape", "picture", "array", "filters"])
    assert (answer["layer"], answer["shape"]) == ("stem.0", [32, 3, 3, 3])
    module = load_classifier("embedded").module.get_submodule("stem.0")
    np.testing.assert_allclose(np.load(answer["array"]), module.weight.detach().numpy() * 255 / 128, rtol=1e-5)
    picture = np.asarray(Image.open(answer["picture"]).convert("RGB"))
    weights = np.load(answer["array"])[0]
    expected = np.round(255 * (0.5 + 0.5 * weights[:, 0, 0] / np.abs(weights).max()))
    np.testing.assert_allclose(picture[17, 17], expected, atol=1)
    other = phosphene("filters", "--layer", "head", "--out", tmp_path / "other")
    assert other.code == 2
    assert "no convolution over the picture's 3 channels" in other.err
