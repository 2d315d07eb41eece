"""phosphene evaluate ...: methods measured over pictures; the group that its commands belong to."""

from __future__ import annotations

import typer

from phosphene.cli.app import app

evaluate = typer.Typer(name="evaluate", help="Measure methods over pictures.", no_args_is_help=True)
app.add_typer(evaluate)
