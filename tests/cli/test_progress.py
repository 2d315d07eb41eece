"""What the command says while it works, and what it computes with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import skimage

from phosphene.cli.app import _lines
from phosphene.errors import as_lines


def test_a_line_for_each_thing_and_one_a_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_lines.__globals__, "_SECONDS_BETWEEN", 3600.0)  # (so that a slow machine says no line more)
    announce = _lines()
    for done, text in ((0, "a.png"), (1, "b.png"), (2, "grow, p 0.10"), (3, "grow, p 0.20"), (4, "grow, p 0.30")):
        announce(done, 4, text)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == ["a.png 0/4", "b.png 1/4", "grow, p 0.10 2/4", "grow, p 0.30 4/4"]


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def test_threads_wait_passively_and_are_as_many_as_asked_for(tmp_path: Path) -> None:
    picture = Path(skimage.__file__).parent / "data" / "chelsea.png"
    code = (
        "import os, sys, phosphene.cli\n"
        "assert 'torch' not in sys.modules\n"
        "try:\n"
        "    phosphene.cli.main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = ('matplotlib.figure', 'scipy.ndimage', 'scipy.sparse', 'skimage.color', 'sklearn', 'IPython')\n"
        "assert not [name for name in heavy if name in sys.modules], 'the first result waits for these imports'\n"
        "import torch\n"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'], torch.get_num_threads(), file=sys.stderr)\n"
    )
    command = ["explain", str(picture), "--threads", "1", "--json", "--out", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True, env=environment
    )
    *lines, found, last = done.stderr.splitlines()
    assert last == "passive 3000 1"
    assert lines == [f"{picture.name} 0/1"]
    assert found == f"{picture.name}: tiger cat 39 %"
    assert json.loads(done.stdout)["images"][0]["status"] == "ok"


def test_no_threads_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from phosphene.cli import app

    assert CliRunner().invoke(app, ["explain", "a.png", "--threads", "0"]).exit_code == 2


def test_what_libraries_say_of_their_future_is_no_line_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    show = as_lines()
    for message in (FutureWarning("torch.old is deprecated"), UserWarning("said"), UserWarning("said")):
        show(message, type(message), "net.py", 1)
    assert capsys.readouterr().err == "phosphene: said\n"
