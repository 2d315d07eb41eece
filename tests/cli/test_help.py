"""The help of every command: two examples, where its output goes, and lines that fit a terminal of 80 columns."""

from __future__ import annotations

import re

import pytest
import typer

from phosphene.cli import app
from tests.cli.running import phosphene


def commands() -> list[tuple[str, ...]]:
    """All commands, with the group that they belong to."""
    found: list[tuple[str, ...]] = []
    for name, one in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(one, "commands", None)  # of a group
        found += [(name,)] if inner is None else [(name, below) for below in inner]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = phosphene(*command, "--help")
    assert outcome.code == 0
    assert [line for line in outcome.out.splitlines() if len(line) > 80] == []
    _, _, examples = outcome.out.partition("Examples:")
    calls = [line.split() for line in examples.strip().splitlines()]
    assert len(calls) >= 2
    assert all(call[: 1 + len(command)] == ["phosphene", *command] for call in calls)
    if "--out" in outcome.out:
        place = "--out" if command[0] == "batch" else f"--out, or a new folder ./phosphene-runs/{command[-1]}-TIME,"
        assert f" {place} gets " in " ".join(outcome.out.split())
    assert "colour" not in outcome.out.lower()


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_options_in_the_examples_are_there(command):
    outcome = phosphene(*command, "--help")
    text, _, examples = outcome.out.partition("Examples:")
    assert set(re.findall(r" (--[a-z-]+)", examples)) <= set(re.findall(r"(--[a-z-]+)", text))


@pytest.mark.parametrize("group", [(), ("batch",), ("evaluate",)], ids="-".join)
def test_lists_of_commands_are_not_cut_off(group, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = phosphene(*group, "--help").out.partition("Commands:")[2]
    assert "..." not in listed
    assert [line for line in listed.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("command", ["layers", "classes"])
def test_what_writes_no_run_takes_no_options_of_runs(command):
    listed = set(re.findall(r"^ +(--[a-z-]+)", phosphene(command, "--help").out, re.M))
    assert {"--model", "--weights", "--json"} <= listed
    assert not {"--out", "--overwrite", "--report", "--seed"} & listed
    outcome = phosphene(command, "--out", "runs")
    assert outcome.code == 2
    assert "No such option" in outcome.err


def test_help_says_what_happens_without_an_option():
    located = " ".join(phosphene("batch", "locate", "--help").out.split())
    assert "Maps instead of the preset's" in located  # not the default of explain
    for name in ("explain", "predict", "locate"):
        told = " ".join(phosphene("batch", name, "--help").out.split())
        assert "phosphene-runs" not in told  # --out has no default there
        assert "default none: phosphene report DIR" in told
    assert "--report" not in phosphene("atlas", "--help").out  # it was refused
