"""`phosphene web` before it serves: what is missing or wrong is one line."""

from __future__ import annotations

import socket
import sys

import pytest

from tests.cli.running import phosphene


def test_without_gradio_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    outcome = phosphene("web")
    assert outcome.code == 2
    assert outcome.err.startswith("phosphene: gradio is not installed; run: ")
    assert outcome.err.endswith(" -m pip install 'gradio>=6.31,<7'\n")


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed (make test-web installs it)")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = phosphene("web", "--port", port)
    assert outcome.code == 1
    assert f"127.0.0.1:{port} cannot be bound" in outcome.err
