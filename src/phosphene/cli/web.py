"""phosphene web: the page."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from phosphene.cli.app import Answer, app, command


@command(app, "web", common=False, examples=("", "--model embedded --model net.py:build --port 8000"))
def web(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="SPEC", help="A classifier; repeatable, the first is shown first [embedded]."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind; the default is closed to other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to bind; 0 for any that is free.")] = 7860,
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="DIR", help="A run folder to look through; repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default where the model loads.")] = None,
    precision: Annotated[
        Literal["exact", "fast"], typer.Option(help="exact: float32; fast: bfloat16 where that is faster.")
    ] = "exact",
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="Threads to compute with.")] = None,
) -> Answer:
    """Open the page: drop a picture, see why, ask again. Ctrl-C ends it; GET /healthz says whether it works."""
    from phosphene.web.server import check_installed, serve

    check_installed()
    from phosphene.runs.common_options import CommonOptions

    common = CommonOptions(device=device, precision=precision, threads=threads)
    shown: list[str] = []

    def ready(address: str) -> None:
        shown.append(address)
        print(f"phosphene: the page is at {address}  (Ctrl-C ends it)", file=sys.stderr, flush=True)

    serve(model or (), common, runs=run or (), host=host, port=port, ready=ready)
    return Answer({"address": shown[0]}, "")
