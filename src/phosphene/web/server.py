"""The server of the page: FastAPI around the Blocks of Gradio, behind the gate."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene import __version__
from phosphene.errors import OutputError, to_install
from phosphene.images import read_image
from phosphene.render import thumbnail
from phosphene.runs.common_options import CommonOptions
from phosphene.web.desk import Desk
from phosphene.web.gate import Gate
from phosphene.web.warm import warm_up

if TYPE_CHECKING:
    from collections.abc import Sequence

_STATIC = {"page.css": "text/css", "page.js": "text/javascript"}
# Gradio reads these from the environment alone, when the page is built and again later: nothing is told to anyone, and
# no statistics of all questions are made anew after each.
_SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "HF_HUB_OFFLINE": "1",
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    models: Sequence[str],
    common: CommonOptions,
    *,
    runs: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 7860,
    ready: Callable[[str], None] = print,
) -> None:
    """Load the classifiers and serve the page until it is interrupted.

    Args:
        models: specs of the classifiers; none for the embedded one.
        common: device, precision, threads and seed of all of them.
        runs: folders of runs to audit.
        host: address to bind; only the loopback is closed to others.
        port: to bind.
        ready: called with the page's address when it answers.

    Raises:
        MissingExtraError: without gradio.
        OutputError: if the port cannot be bound.
        PhospheneError: for a model that cannot be loaded, or a folder that is no run.
    """
    check_installed()
    import uvicorn

    listening = _bound(host, port)
    desk = Desk.of(models, common, runs)
    warm_up(desk)
    shown = f"http://{'[' + host + ']' if ':' in host else host}:{listening.getsockname()[1]}"
    with application(desk, host) as app:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3, server_header=False)
        server = uvicorn.Server(config)
        ready(shown)
        server.run(sockets=[listening])


@contextmanager
def application(desk: Desk, host: str = "127.0.0.1") -> Iterator[Any]:
    """The page as an ASGI application; uploads lie in a folder of their own, which is gone afterwards.

    Args:
        desk: what the page has; its worker is ended at the end.
        host: that will be bound; on the loopback the page answers under no other name.

    Raises:
        MissingExtraError: without gradio.
    """
    check_installed()
    uploads = Path(tempfile.mkdtemp(prefix="phosphene-web-"))
    settings = {"GRADIO_TEMP_DIR": str(uploads), **_SETTINGS}
    before = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    try:
        hosts = None if host not in _LOOPBACK else {"127.0.0.1", "localhost", "[::1]", "testserver"}
        yield Gate(_fastapi(desk, uploads), uploads, hosts)
    finally:
        desk.worker.close()
        shutil.rmtree(uploads, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def check_installed() -> None:
    """Say how gradio is installed, if it is not.

    Raises:
        MissingExtraError: with the line.
    """
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise to_install("gradio is not installed", "gradio>=6.31,<7") from None


def _fastapi(desk: Desk, uploads: Path) -> Any:
    import gradio
    from fastapi import FastAPI, Response

    from phosphene.web.page import build, look

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    static = {name: ((Path(__file__).parent / "static" / name).read_bytes(), kind) for name, kind in _STATIC.items()}
    static |= {f"examples/{name}": (_small(path), "image/jpeg") for name, path in desk.packaged.by_name.items()}

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {
            "status": "ok",
            "version": __version__,
            "models": list(desk.models),
            "waiting": len(desk.worker),
            "bound": desk.worker.bound,
            "done": desk.worker.done,
        }

    @app.get("/results/{token}/{name}")
    def results(token: str, name: str) -> Response:
        found = desk.shelf.get(token, name)
        if found is None:
            return Response("not here any more; ask again", status_code=404, media_type="text/plain")
        headers = {"cache-control": "private, max-age=3600"}
        return Response(found[0], media_type=found[1], headers=headers)

    @app.get("/phosphene/{name:path}")
    def files(name: str) -> Response:
        if name not in static:
            return Response("not here", status_code=404, media_type="text/plain")
        return Response(static[name][0], media_type=static[name][1], headers={"cache-control": "max-age=300"})

    return gradio.mount_gradio_app(app, build(desk, uploads), path="/", **look())


def _small(path: Path) -> bytes:
    content = BytesIO()
    thumbnail(read_image(path), 240).save(content, "JPEG", quality=86)
    return content.getvalue()


def _bound(host: str, port: int) -> Any:
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{host}:{port} cannot be bound ({reason}); choose another --port") from None
    return listening
