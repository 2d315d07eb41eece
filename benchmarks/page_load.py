"""Many clients ask the page at once: what comes back, how long it takes, how much the server holds.

    python -m benchmarks.page_load --clients 50 --seconds 120

Starts `phosphene web` in a process of its own on the loopback, has every client ask Explain again and again, and prints
one JSON object. Needs the extra `web`; httpx comes with it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np

EXAMPLES = ("chelsea.png", "coffee.png", "flower.jpg", "rocket.jpg")
METHOD = "cam"


async def main(clients: int, seconds: float) -> dict[str, Any]:
    """The measured figures."""
    command = [sys.executable, "-m", "phosphene", "web", "--port", "0", "--threads", "1"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = re.search(r"http://\S+", server.stderr.readline())[0]  # type: ignore[index]
        async with httpx.AsyncClient(base_url=address, timeout=120, limits=httpx.Limits(max_connections=None)) as web:
            first = await click_to_map(web)
            seen = Seen(server.pid, web)
            watching = asyncio.create_task(seen.watch())
            until = time.monotonic() + seconds
            await asyncio.gather(*(client(web, number, until, seen) for number in range(clients)))
            watching.cancel()
            right = await seen.right()
            after = (await web.get("/healthz")).json()
        return {
            "clients": clients,
            "seconds": seconds,
            "load_before_and_after": [seen.load, os.getloadavg()[0]],
            "http": dict(seen.http),
            "answers": dict(seen.answers),
            "answers_per_second": seen.answers["done"] / seconds,
            "seconds_to_answer": {str(q): float(np.quantile(seen.times, q)) for q in (0.5, 0.9, 0.99)},
            "most_waiting": seen.waiting,
            "megabytes_at_first_and_most": [seen.memory[0], max(seen.memory)],
            "megabytes_last_quarter": seen.memory[-1],
            "last_answers_right": right,
            "waiting_afterwards": after["waiting"],
            "one_client_click_to_map": first,
        }
    finally:
        server.terminate()
        server.wait(30)


class Seen:
    """What was seen of the server while it was asked."""

    def __init__(self, pid: int, web: httpx.AsyncClient) -> None:
        self.pid, self.web = pid, web
        self.http: Counter[int] = Counter()
        self.answers: Counter[str] = Counter()
        self.times: list[float] = []
        self.memory: list[float] = []
        self.last: dict[int, tuple[str, str]] = {}
        self.waiting = 0
        self.load = os.getloadavg()[0]

    async def watch(self) -> None:
        """Memory and queue, twice a second."""
        while True:
            with open(f"/proc/{self.pid}/status") as file:
                self.memory.append(int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024)  # type: ignore[index]
            self.waiting = max(self.waiting, (await self.web.get("/healthz")).json()["waiting"])
            await asyncio.sleep(0.5)

    async def right(self) -> str:
        """How many of the clients' last maps are those of the library."""
        from phosphene import explain
        from phosphene.runs.demo import demo_pictures

        paths = {path.name: str(path) for path in demo_pictures()}
        same = {name: explain("embedded", paths[name], METHOD).maps[0].numpy() for name in EXAMPLES}
        good = 0
        for name, html in self.last.values():
            raw = np.load(io.BytesIO((await self.web.get("/" + npy_of(html))).content), allow_pickle=False)
            good += bool(np.allclose(raw, same[name], rtol=1e-4, atol=1e-4))
        return f"{good} of {len(self.last)}"


def npy_of(html: str) -> str:
    """The address of the raw map."""
    return re.search(r'href="(results/[^"]+\.npy)"', html)[1]  # type: ignore[index]


async def ask(web: httpx.AsyncClient, session: str, example: str, seen: Seen | None = None) -> tuple[str, str, float]:
    """(how it ended, the answer, seconds to the first map) of one question."""
    began, first = time.perf_counter(), 0.0
    data = [None, example, "embedded", "top1", "", [METHOD], "", "center"]
    asked = await web.post("/gradio_api/call/explain", json={"data": data, "session_hash": session})
    if seen is not None:
        seen.http[asked.status_code] += 1
    if asked.status_code != 200:
        return f"http {asked.status_code}", "", 0.0
    path = f"/gradio_api/call/explain/{asked.json()['event_id']}"
    said, answer = "", ""
    async with web.stream("GET", path) as stream:
        if seen is not None:
            seen.http[stream.status_code] += 1
        async for line in stream.aiter_lines():
            if line.startswith("data: ") and line != "data: null":
                value = json.loads(line[6:])
                if isinstance(value, list):
                    said = value[0] if isinstance(value[0], str) else said
                    if isinstance(value[1], str) and ".npy" in value[1]:
                        first = first or time.perf_counter() - began
                        answer = value[1]
    if 'data-status="done"' in said:
        return "done", answer, first
    return ("busy" if "busy" in said else f"other: {said[:80]}"), "", 0.0


async def click_to_map(web: httpx.AsyncClient, times: int = 15) -> dict[str, float]:
    """Seconds from asking to the first map, for one client alone, with the first answers left out."""
    found = [(await ask(web, f"one{number}", EXAMPLES[0]))[2] for number in range(times + 3)][3:]
    return {"median": float(np.median(found)), "largest": max(found), "load": os.getloadavg()[0]}


async def client(web: httpx.AsyncClient, number: int, until: float, seen: Seen) -> None:
    """Asks until the time is over; who is told that it is busy waits a little."""
    turn = number
    while time.monotonic() < until:
        example = EXAMPLES[turn % len(EXAMPLES)]
        turn += 1
        ended, answer, seconds = await ask(web, f"client{number}", example, seen)
        seen.answers[ended] += 1
        if ended == "done":
            seen.times.append(seconds)
            seen.last[number] = (example, answer)
        else:
            await asyncio.sleep(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(main(given.clients, given.seconds)), indent=1))
