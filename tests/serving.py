"""A service behind an address: pictures are posted to it as a NumPy file, scores come back as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np


@contextmanager
def scores_service(scores: Callable[[Any], Any]) -> Iterator[str]:
    """The address of a service of a function of pictures; as long as the context holds."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            pictures = np.load(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = json.dumps({"scores": np.asarray(scores(pictures)).tolist()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/scores"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def redness(pictures: np.ndarray) -> np.ndarray:
    """Scores (N, 2) of pictures (N, H, W, 3): pale and red."""
    red = pictures[..., 0].mean((1, 2)) / 255
    return np.stack([1 - red, red], axis=1)
