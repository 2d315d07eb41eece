"""The served page over the loopback: answers, refusals, files, queue; as a client outside of the process sees it."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from phosphene.runs.demo import demo_pictures
from phosphene.web.pictures import MAX_BYTES
from tests.web.reading import Answer
from tests.web.test_pictures import HOSTILE

pytest.importorskip("gradio", reason="gradio is not installed (make test-web installs it)")

# What Gradio does with its own dependencies is not ours to mind.
pytestmark = pytest.mark.filterwarnings("default")

EXPLAIN = {"classes": "top1", "versus": "", "methods": ["cam"], "layer": "", "view": "center"}


class Client:
    """A client that speaks the page's protocol by hand.

    Args:
        address: of the page.
        session: its name.
    """

    def __init__(self, address, session="test"):
        self.host, self.session = urlsplit(address).netloc, session
        self.names = {
            name: number
            for number, name in ((item["id"], item["api_name"]) for item in self.json("GET", "/config")["dependencies"])
        }

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, timeout=120)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": self.host, "Content-Length": str(len(body or b"")), **(headers or {})}
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def json(self, method, path, value=None):
        headers = {"Content-Type": "application/json"}
        status, content = self.request(method, path, None if value is None else json.dumps(value).encode(), headers)
        assert status == 200, (status, content[:300])
        return json.loads(content)

    def upload(self, name, content):
        """(status, path on the server or why not)."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        status, answer = self.request("POST", "/gradio_api/upload", head + content + b"\r\n--x--\r\n", headers)
        return status, json.loads(answer)[0] if status == 200 else answer.decode()

    def ask(self, name, data):
        """All (status, answer) pairs that the view gives, the last one last; None where it gave nothing new."""
        body = {"fn_index": self.names[name], "data": data, "session_hash": self.session}
        self.json("POST", "/gradio_api/queue/join", body)
        return self.follow()

    def follow(self):
        status, content = self.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
        assert status == 200
        messages = [json.loads(line[6:]) for line in content.decode().splitlines() if line.startswith("data: ")]
        (last,) = [message for message in messages if message["msg"] == "process_completed"]
        assert last["success"], last
        return [value if isinstance(value, str) else "" for value in last["output"]["data"]]

    def explain(self, example="", path=None, name="sent.png", **changed):
        picture = None if path is None else {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        asked = {**EXPLAIN, **changed}
        return self.ask("explain", [picture, example, "embedded", *asked.values()])


@pytest.fixture
def client(served, request):
    return Client(served[0], session=f"s{abs(hash(request.node.name))}")


def maps_of(client, html):
    links = [link for link in Answer(html).links if link.endswith(".npy")]
    return [np.load(io.BytesIO(client.request("GET", "/" + link)[1]), allow_pickle=False) for link in links]


def test_healthz(client):
    assert client.json("GET", "/healthz")["status"] == "ok"
    assert client.json("GET", "/healthz")["models"] == ["embedded"]


def test_explain_gives_the_map_of_the_library(client):
    from phosphene import explain

    path = next(path for path in demo_pictures() if path.name == "chelsea.png")
    packaged = client.explain("chelsea.png")[1]
    status, stored = client.upload("my cat.png", path.read_bytes())
    assert status == 200
    uploaded = client.explain(path=stored, name="my cat.png")[1]
    same = explain("embedded", str(path), "cam").maps[0].numpy()
    for html in (packaged, uploaded):
        (own,) = maps_of(client, html)
        np.testing.assert_allclose(own, same, rtol=1e-4, atol=1e-5 * np.abs(same).max())
    assert "my cat.png" in uploaded


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in ("huge", "empty")])
def test_hostile_uploads_are_refused_in_one_line(kind, client):
    content, _ = HOSTILE[kind]
    status, stored = client.upload("sent.png", content)
    assert status == 200
    said, answer = client.explain(path=stored)
    assert 'class="refused"' in said
    assert "sent.png: " in said
    assert "/tmp" not in said
    assert not maps_of(client, answer)
    assert client.json("GET", "/healthz")["status"] == "ok"


def test_a_file_that_is_too_large_is_not_taken(client):
    assert client.upload("huge.png", bytes(MAX_BYTES + 1))[0] == 413
    assert client.upload("huge.png", bytes(4 * MAX_BYTES + 1))[0] == 413


@pytest.mark.parametrize(
    "name", ["../../evil.png", "a\\..\\b.png", "..", "x" * 400 + ".png", "<b>.png", "{{7*7}}.png", "%0d%0aX: 1.png"]
)
def test_names_of_uploads_lead_nowhere(name, client, served):
    content = next(path for path in demo_pictures() if path.name == "chelsea.png").read_bytes()
    status, stored = client.upload(name, content)
    if status != 200:
        assert status == 400
        return
    said, answer = client.explain(path=stored, name=name)
    assert 'data-status="done"' in said
    assert "<b>.png" not in answer
    assert "49.png" not in answer
    assert "../" not in answer


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{uploads}/../../etc/passwd",
        "http://127.0.0.1:1/a.png",
        "data:image/png;base64,AAAA",
        "pyproject.toml",
    ],
)
def test_no_other_file_is_read_for_a_question(path, client, served):
    _, stored = client.upload("a.png", b"x")
    named = path.format(uploads=stored.rsplit("/", 2)[0])
    body = {
        "fn_index": client.names["explain"],
        "data": [
            {"path": named, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}},
            "",
            "embedded",
            *EXPLAIN.values(),
        ],
        "session_hash": client.session,
    }
    headers = {"Content-Type": "application/json"}
    assert client.request("POST", "/gradio_api/queue/join", json.dumps(body).encode(), headers)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2fetc%2fpasswd",
        "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/results/x/../../../etc/passwd",
        "/results/%2e%2e/%2e%2e%2fetc%2fpasswd",
        "/phosphene/../page.py",
        "/phosphene/%2e%2e/page.py",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/assets/../../../../etc/passwd",
        "/svelte/../../../etc/passwd",
    ],
)
def test_nothing_of_the_server_is_readable(path, client):
    status, content = client.request("GET", path)
    assert status in (400, 403, 404)
    assert b"root:" not in content
    assert b"import" not in content


def test_headers_are_not_believed(client):
    assert client.request("GET", "/", headers={"Host": "evil.example"})[0] == 421
    for forged in (
        {"X-Forwarded-Host": "evil.example"},
        {"X-Gradio-Server": "https://evil.example"},
        {"Origin": "https://evil.example"},
    ):
        status, content = client.request("GET", "/config", headers=forged)
        assert status == 200
        assert b"evil.example" not in content


def test_models_are_those_of_the_command_line(client):
    said, _ = client.ask("explain", [None, "chelsea.png", "torchvision:vgg16", *EXPLAIN.values()])
    assert "no model" in said


def test_without_a_picture_it_says_what_to_do(client):
    assert "choose a picture first" in client.explain()[0]


def test_who_waits_is_told_and_who_is_too_many_too(served, client):
    _, desk = served
    may_end, began = threading.Event(), threading.Event()

    def slow(job):
        began.set()
        while not may_end.is_set():
            job.check()
            time.sleep(0.01)
        yield ""

    desk.worker.submit("blocking", slow)
    assert began.wait(10)
    fillers = [desk.worker.submit(f"filler {number}", lambda job: iter([""])) for number in range(desk.worker.bound)]
    try:
        said, _ = client.explain("chelsea.png")
        assert f"busy: {desk.worker.bound + 1} before you" in said
        assert client.json("GET", "/healthz")["waiting"] == desk.worker.bound + 1
    finally:
        may_end.set()
    assert all(filler.result(30) == "" for filler in fillers)
    assert 'data-status="done"' in client.explain("chelsea.png")[0]


def test_who_leaves_stops_what_they_asked(served, client):
    _, desk = served
    body = {
        "fn_index": client.names["remember"],
        "data": [None, "", "embedded", ["301"], False, "class_model", "", 600, 0],
        "session_hash": client.session,
    }
    client.json("POST", "/gradio_api/queue/join", body)
    connection = http.client.HTTPConnection(client.host, timeout=60)
    connection.request("GET", f"/gradio_api/queue/data?session_hash={client.session}")
    answer = connection.getresponse()
    while b"Step" not in answer.readline():
        pass
    assert len(desk.worker) == 1
    answer.close()
    connection.close()
    until = time.monotonic() + 30
    while len(desk.worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(desk.worker) == 0


def test_the_page_asks_no_one_else(client):
    """Nothing that the page loads at first names another host to fetch from."""
    _, page = client.request("GET", "/")
    _, theme = client.request("GET", "/theme.css")
    for text in (theme.decode(),):
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text
    assert b"fonts.googleapis.com" not in page
    assert b"cdnjs" not in page
