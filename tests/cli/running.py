"""The command in this process, with everything it printed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer.testing
from typer.main import get_command

from phosphene.cli import app

# The tree of all commands is made once, not for each of hundreds of calls.
typer.testing._get_command = cache(get_command)


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on standard output."""
        return json.loads(self.out)


def phosphene(*arguments: object) -> Outcome:
    """Run `phosphene ARGUMENTS`; an exception that is no exit is let through."""
    result = typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="phosphene")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def partial_files(folder: Path) -> list[str]:
    """What should never be seen: files that were being written."""
    return [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".partial"]


def keys(value: dict[str, Any], names: Iterable[str]) -> None:
    """All of the documented keys are there."""
    missing = set(names) - value.keys()
    assert not missing, f"missing {missing} in {sorted(value)}"
