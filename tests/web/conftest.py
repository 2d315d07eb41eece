"""A desk with the embedded network and a run to audit, for all tests of the page in this process."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import cache

import pytest

from phosphene.runs.common_options import CommonOptions
from phosphene.runs.demo import demo_pictures
from phosphene.web.desk import Desk
from phosphene.zoo import embedded, load
from tests.cli.running import phosphene


@pytest.fixture(scope="session", autouse=True)
def _one_embedded_classifier():
    """The embedded classifier is read and prepared once for page and commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(load.SOURCES, "embedded", cache(embedded.load))
        yield


@pytest.fixture(scope="session")
def audited_run(tmp_path_factory):
    """A run of explain over the packaged pictures, two with a true class, and a broken one."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "broken.png").write_bytes(b"no picture")
    labels = {"chelsea.png": "Egyptian cat", "coffee.png": "espresso"}
    lines = [f"{path},{labels.get(path.name, '')}" for path in (*demo_pictures(), folder / "broken.png")]
    (folder / "pictures.csv").write_text("\n".join(["path,label", *lines]))
    outcome = phosphene(
        "explain", folder / "pictures.csv", "--method", "cam", "--out", folder / "tour", "--report", "none"
    )
    assert outcome.code == 1  # the broken one
    return folder / "tour"


@pytest.fixture(scope="session")
def desk(audited_run):
    made = Desk.of((), CommonOptions(), [str(audited_run)])
    yield made
    made.worker.close()


@pytest.fixture
def job():
    """A job that nobody follows and nothing stops."""
    from phosphene.web.worker import Job

    return Job("test", lambda job: iter(()), seconds=600)


@pytest.fixture(scope="session")
def served(audited_run):
    """Address and desk of a page that is served on a free port of the loopback."""
    pytest.importorskip("gradio", reason="gradio is not installed (make test-web installs it)")
    from phosphene.web.warm import warm_up

    desk = Desk.of((), CommonOptions(), [str(audited_run)])
    warm_up(desk)
    with serving(desk) as address:
        yield address, desk


@contextmanager
def serving(desk):
    """The address of a desk's page while it is served."""
    import uvicorn

    from phosphene.web.server import application

    with application(desk) as app:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            thread.join(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join(20)
