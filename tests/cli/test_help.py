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
    if "--out" in outcome.out and command[0] not in ("layers", "classes", "batch"):
        assert re.search(rf"./phosphene-runs/{command[-1]}-TIME,\s+gets", outcome.out)
    assert "colour" not in outcome.out.lower()


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_options_in_the_examples_are_there(command):
    outcome = phosphene(*command, "--help")
    text, _, examples = outcome.out.partition("Examples:")
    assert set(re.findall(r" (--[a-z-]+)", examples)) <= set(re.findall(r"(--[a-z-]+)", text))
