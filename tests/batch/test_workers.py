"""Workers in processes of their own: they die, they are killed, they kill; in the end every row is there once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import phosphene
from phosphene import Classifier, Preprocess
from phosphene.batches import batch_status
from phosphene.batches.child import _OTHER_END
from phosphene.errors import ModelError, OptionError
from tests.batch.small import SPEC, photos
from tests.batch.test_batch import records, shards, table

parquet = pytest.importorskip("pyarrow.parquet")

OPTIONS = {"method": "saliency", "shard_size": 5, "maps": "float32", "batch_size": 2, "threads": 1}
ROOT = Path(__file__).parents[2]


def test_a_picture_that_kills_its_worker_is_a_row(tmp_path):
    folder = photos(tmp_path / "photos", 7, broken=(3,), killers=(4,))
    answer = phosphene.batch(SPEC, folder, tmp_path / "run", workers=1, **{**OPTIONS, "batch_size": 1})
    assert (answer["rows"], answer["ok"], answer["failed"], answer["shards"]) == (7, 5, 2, 2)
    assert answer["deaths"] == 2
    assert not list((tmp_path / "run").glob(".*"))
    rows = {row["key"]: row for row in table(tmp_path / "run")}
    assert len(rows) == 7
    assert rows["0004.png"]["error"].endswith(
        "0004.png: its worker died each time that it was looked at (killed by SIGSEGV)"
    )
    assert all(row["map"] for key, row in rows.items() if key not in ("0003.png", "0004.png"))


def test_ctrl_c_while_a_worker_loads_is_not_a_traceback(tmp_path):
    # (where PyTorch would be loaded)
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nos._exit(7)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    ended = subprocess.run([sys.executable, "-c", _OTHER_END], env=environment, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (7, b"")


def begun(folder, out, *more):
    command = [sys.executable, "-m", "phosphene", "batch", "explain", str(folder), "--out", str(out), *more]
    options = ["--model", SPEC, "--method", "saliency", "--shard-size", "5", "--maps", "float32", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.Popen(
        [*command, *options, "--batch-size", "2", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(parent):
    """The worker processes of a run."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are told from /proc")
def test_killed_with_its_workers_at_any_moment_a_run_goes_on(tmp_path):
    folder = photos(tmp_path / "photos", 40, broken=(3, 22))
    phosphene.batch(SPEC, folder, tmp_path / "whole", **OPTIONS)
    out, draw, before = tmp_path / "run", random.Random(5), set()
    for kill in range(2):
        process = begun(folder, out)
        deadline = time.monotonic() + 60
        # With the first shards there it is killed in the midst of others: itself, or first its worker and then itself.
        while time.monotonic() < deadline and process.poll() is None:
            found = set(shards(out)) if out.is_dir() else set()
            if len(found) > len(before):
                break
            time.sleep(0.005)
        time.sleep(draw.random() * 0.1)
        state = batch_status(out)["state"] if shards(out) else "under way"
        assert process.poll() is not None or state != "stopped"
        workers = children(process.pid)
        if kill == 1 and workers:
            os.kill(workers[0], signal.SIGKILL)
            time.sleep(0.3)
            workers = children(process.pid)
        process.kill()
        process.communicate()
        if not out.is_dir():
            continue
        found = set(shards(out))
        assert found >= before  # what is there stays there
        assert batch_status(out)["damaged"] == []
        assert batch_status(out)["state"] != "under way"
        before = found
        deadline = time.monotonic() + 20
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, workers))  # nobody is left behind
    answer = phosphene.batch(SPEC, folder, out, **OPTIONS)
    assert (answer["rows"], answer["ok"], answer["failed"], answer["shards"]) == (40, 38, 2, 8)
    assert records(out) == records(tmp_path / "whole")
    assert not list(out.glob(".*"))


def test_a_stop_keeps_what_is_finished_and_ends_the_workers(tmp_path):
    folder = photos(tmp_path / "photos", 300)
    process = begun(folder, tmp_path / "run")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "run" / "part-00000.parquet").is_file():
        time.sleep(0.01)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    out = tmp_path / "run"
    assert errors.splitlines()[-1] == (
        f"phosphene: stopped; what was finished is kept in {out}; the same command with --out {out} --resume goes on"
    )
    assert "Traceback" not in errors
    assert not any(map(alive, workers))
    status = batch_status(tmp_path / "run")
    assert 0 < status["pictures"] < 300
    assert status["damaged"] == []


def test_what_a_worker_cannot_do_is_said_by_the_run(tmp_path):
    folder = photos(tmp_path / "photos", 3)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    layers.forward = lambda images: images.mean((2, 3))
    classifier = Classifier(layers, Preprocess((16, 16)))
    with pytest.raises(OptionError, match="cannot be sent to another process"):
        phosphene.batch(classifier, folder, tmp_path / "one", workers=1)
    place = tmp_path / "once.py"
    place.write_text(
        "import os\nfrom tests.batch.small import make as made\n"
        "def make():\n    if os.environ.get('FIRST') == str(os.getpid()):\n        return made()\n"
        "    raise RuntimeError('no card')\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRST", str(os.getpid()))
        with pytest.raises(ModelError, match="no card"):
            phosphene.batch(f"{place}:make", folder, tmp_path / "two", workers=1, **OPTIONS)


def test_a_network_of_the_main_module_is_refused_and_nobody_waits(tmp_path):
    folder, place = photos(tmp_path / "photos", 3), tmp_path / "script.py"
    place.write_text(
        "import sys, torch, phosphene\n"
        "class Net(torch.nn.Sequential):\n    pass\n"
        "net = Net(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
        "classifier = phosphene.Classifier(net, phosphene.Preprocess((16, 16)))\n"
        "phosphene.batch(classifier, sys.argv[1], sys.argv[2], method='saliency', workers=1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, str(place), str(folder), str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith(
        "phosphene.errors.OptionError: the classifier cannot be sent to another process (Can't get attribute 'Net'"
    )
