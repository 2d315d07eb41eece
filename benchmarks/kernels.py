"""python -m benchmarks.kernels [--network NAME]... [--rounds N]: what each compiled kernel wins of a whole pass.

Every set of kernels is prepared by itself in one process and timed in turn; the number is the time of a pass without
any compiled kernel over the time with the set, the median over the rounds. A pass is a forward pass of 16 images, or
that and the gradient at the images, exact and fast.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch

from benchmarks.float64 import network
from phosphene.allocator import keep_freed_memory
from phosphene.classifier import Classifier
from phosphene.kernels import chain
from phosphene.kernels.jit.depthwise import Depthwise
from phosphene.runtime import input_gradient, prepare
from phosphene.runtime.passes import forward
from phosphene.targets import Target

_NEVER = staticmethod(lambda *_: False)
# What is switched off: nothing of it, or each kernel by the place where the passages ask for it.
_OFF = {
    "depthwise": lambda: mock.patch.object(chain, "depthwise_passages", return_value=None),
    "widening": lambda: mock.patch.object(Depthwise, "widens", _NEVER),
    "projecting": lambda: mock.patch.object(chain, "projected", return_value=None),
}
_SETS = {
    "none": [],
    "depthwise": ["depthwise"],
    "depthwise, widening": ["depthwise", "widening"],
    "depthwise, projecting": ["depthwise", "projecting"],
    "all": list(_OFF),
}
_NETWORKS = ["embedded", "mobilenet_v2"]


@contextmanager
def only(kernels: list[str]) -> Iterator[None]:
    """All kernels but these are switched off for what is prepared meanwhile."""
    off = [switch() for name, switch in _OFF.items() if name not in kernels]
    for switch in off:
        switch.start()
    try:
        yield
    finally:
        for switch in off:
            switch.stop()


def passes(classifier: Classifier, images: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The passes that are timed, by name."""
    target = Target.of([0] * len(images))
    exact, fast = (prepare(classifier, precision=precision) for precision in ("exact", "fast"))
    return {
        "forward": lambda: forward(exact, images),
        "gradient": lambda: input_gradient(exact, images, target),
        "fast gradient": lambda: input_gradient(fast, images, target),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--network", action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--set", action="append", choices=list(_SETS)[1:])
    chosen = parser.parse_args()
    keep_freed_memory()
    images = torch.rand(chosen.images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    sets = {name: _SETS[name] for name in ["none", *(chosen.set or list(_SETS)[1:])]}
    print("| network | pass | ms an image without | " + " | ".join(list(sets)[1:]) + " |")
    print("|---|---|---|" + "---|" * (len(sets) - 1))
    for name in chosen.network or _NETWORKS:
        ready = {}
        for kernels, parts in sets.items():
            with only(parts):
                loaded = network(name)  # remembered by its loader: each set has a copy of its own
                ready[kernels] = passes(Classifier(copy.deepcopy(loaded.module), loaded.preprocess), images)
                for run in ready[kernels].values():
                    for _ in range(4):  # what is remembered by size is made
                        run()
        for kind in ready["none"]:
            taken = {kernels: [] for kernels in sets}
            for _ in range(chosen.rounds):
                for kernels, runs in ready.items():
                    with only(sets[kernels]):
                        start = time.perf_counter()
                        runs[kind]()
                        taken[kernels].append(time.perf_counter() - start)
            times = {kernels: np.array(found) for kernels, found in taken.items()}
            won = [f"{np.median(times['none'] / times[kernels]):.2f}" for kernels in list(sets)[1:]]
            alone = np.median(times["none"]) / len(images) * 1e3
            print(f"| {name} | {kind} | {alone:.1f} | " + " | ".join(won) + " |", flush=True)


if __name__ == "__main__":
    main()
