"""The gate: what is not on the list does not exist, no file but uploads is given out, nothing too large comes in."""

from __future__ import annotations

import asyncio
import json

import pytest

from phosphene.web.gate import Gate
from phosphene.web.pictures import MAX_BYTES


@pytest.fixture
def gate(tmp_path):
    """Before a page that says which address it was asked for, and reads what it is sent."""
    uploads, secret = tmp_path / "uploads", tmp_path / "secret.png"
    (uploads / "abc").mkdir(parents=True)
    (uploads / "abc" / "cat.png").write_bytes(b"cat")
    secret.write_bytes(b"secret")
    (uploads / "link.png").symlink_to(secret)

    async def page(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    return Gate(page, uploads, {"localhost"})


def ask(gate, path, method="GET", body=b"", headers=(), host=b"localhost:7860", declared=None):
    sent = []
    length = str(len(body) if declared is None else declared).encode()
    chunks = [body[start : start + 1_000_000] for start in range(0, len(body), 1_000_000)] or [b""]

    async def receive():
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path}
    scope["headers"] = [(b"host", host), (b"content-length", length), *headers]
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/healthz",
        "/config",
        "/theme.css",
        "/assets/index-Dp_1.js",
        "/results/Ab-_9/cam.npy",
        "/phosphene/page.css",
    ],
)
def test_what_the_page_needs_is_there(gate, path):
    status, headers = ask(gate, path)
    assert status == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://example.org/",
        "/gradio_api/vibe-edit/",
        "/gradio_api/process_recording",
        "/gradio_api/custom_component/1/client/component/a.js",
        "/gradio_api/run-history/records",
        "/monitoring",
        "/login",
        "/results/../secret",
        "/results/token/../../x",
        "/assets/../../secret",
        "/static//etc/passwd/../x",
    ],
)
def test_what_is_not_on_the_list_does_not_exist(gate, path):
    assert ask(gate, path)[0] == 404


def test_of_all_files_only_uploads_are_given_out(gate):
    uploads = gate.uploads
    assert ask(gate, f"/gradio_api/file={uploads}/abc/cat.png")[0] == 200
    for path in (
        "/etc/passwd",
        f"{uploads}/../secret.png",
        f"{uploads}/abc/../../secret.png",
        f"{uploads}/abc/%2e%2e/%2e%2e/secret.png",
        f"{uploads}/link.png",
        f"{uploads}",
        "http://169.254.169.254/latest/meta-data",
        "secret.png",
        f"{uploads}/abc/cat.png\0.txt",
    ):
        assert ask(gate, f"/gradio_api/file={path}")[0] == 404, path


@pytest.mark.parametrize(
    "named", ["/etc/passwd", "{uploads}/../secret.png", "https://example.org/a.png", "file:///etc/passwd", "a.png"]
)
def test_a_question_names_no_other_files(gate, named):
    question = {"data": [{"path": named.format(uploads=gate.uploads), "meta": {"_type": "gradio.FileData"}}, "deep"]}
    for body in (question, {"data": [[{"value": question["data"]}]]}):
        assert ask(gate, "/gradio_api/queue/join", "POST", json.dumps(body).encode())[0] == 403
    fine = {"data": [{"path": f"{gate.uploads}/abc/cat.png"}]}
    assert ask(gate, "/gradio_api/queue/join", "POST", json.dumps(fine).encode())[0] == 200


@pytest.mark.parametrize("body", [b"not json", b"[" * 100_000])
def test_a_question_is_json(gate, body):
    assert ask(gate, "/gradio_api/queue/join", "POST", body)[0] == 400


def test_too_much_is_refused_declared_or_not(gate):
    large = bytes(300_000)
    assert ask(gate, "/gradio_api/queue/join", "POST", large)[0] == 413
    assert ask(gate, "/gradio_api/queue/join", "POST", large, declared=5)[0] == 413
    assert ask(gate, "/gradio_api/upload", "POST", b"", declared=5 * MAX_BYTES)[0] == 413
    assert ask(gate, "/gradio_api/upload", "POST", bytes(4 * MAX_BYTES + 1), declared=5)[0] == 413
    assert ask(gate, "/gradio_api/upload", "POST", b"x", declared="-1")[0] == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_refused(gate, method):
    assert ask(gate, "/", method)[0] == 405


@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil.example", b"", b"[::1]:7860", b"localhost\r\nx: y"])
def test_the_page_answers_under_its_own_names(gate, host):
    assert ask(gate, "/", host=host)[0] == 421
    assert ask(gate, "/", host=b"LOCALHOST")[0] == 200
