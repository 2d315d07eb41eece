"""The parts of a run made on a Ray cluster, by the same maker on a pool of actors (extra `[ray]`)."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from phosphene.batches.crew import Crew
from phosphene.cancel import Cancel
from phosphene.errors import PhospheneError, ResourceError, to_install


@dataclass(frozen=True)
class RayData:
    """Ray Data: one row of its data set is a part, one actor of its pool a worker that holds its classifier.

    Actors that die, and those of nodes that die, are started elsewhere by Ray, which gives them their part once more.
    What kills an actor's own worker, such as a picture, is dealt with in the actor.

    Args:
        address: "local" for a cluster in this machine, or that of one that runs.
        workers: actors; None for as many as there is room for.
        num_gpus: of each actor.
    """

    address: str
    workers: int | None
    num_gpus: float

    def run(self, crew: Crew, parts: Iterator[Any], tell: Callable[..., None], cancel: Cancel) -> Iterator[Any]:
        """What was made, as it comes; nothing is told within a part.

        Raises:
            MissingExtraError: if Ray is not installed.
            ResourceError: if there is no cluster, or it cannot go on.
            PhospheneError: what a maker raised.
        """
        waiting = [{"part": pickle.dumps(part)} for part in parts]
        if not waiting:
            return
        threads = crew.work.model.threads or 1
        with cluster(self.address, self.workers, threads) as ray:
            actors = ray.data.ActorPoolStrategy(
                size=self.workers or _all(ray, self.num_gpus, threads), max_tasks_in_flight_per_actor=2
            )
            told = ray.data.from_items(waiting, override_num_blocks=len(waiting)).map_batches(
                _Actor,
                fn_constructor_args=(crew, threads, os.getcwd()),
                batch_size=1,
                zero_copy_batch=True,
                compute=actors,
                num_cpus=threads,
                num_gpus=self.num_gpus,
            )
            try:
                for row in told.iter_rows():
                    made, problem = pickle.loads(row["made"])
                    if problem is not None:
                        raise problem
                    yield made
                    cancel.raise_if_cancelled()
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                raise ResourceError(f"--ray {self.address}: {' '.join(str(cause).split())[-400:]}") from None


class _Actor:
    """Holds one worker for all the parts that Ray gives it."""

    def __init__(self, crew: Crew, threads: int, folder: str) -> None:
        with suppress(OSError):  # where paths are relative, and nodes share a disk
            os.chdir(folder)
        self._survivor = crew.guard(crew.child(threads))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"made": [pickle.dumps(self._made(pickle.loads(part))) for part in batch["part"]]}

    def _made(self, part: Any) -> tuple[Any, PhospheneError | None]:
        """What was made, or the error, which Ray would wrap in its own."""
        try:
            return self._survivor.make(part, lambda *_told: None), None
        except PhospheneError as error:
            return None, error


@contextmanager
def cluster(address: str, workers: int | None, threads: int) -> Iterator[Any]:
    """Within the block there is a connection to the cluster, the one that there was or a new one.

    Args:
        address: "local" for a cluster in this machine, or that of one that runs.
        workers: that a cluster in this machine has room for; None for as many as it has cores.
        threads: of each worker.

    Raises:
        MissingExtraError: if Ray is not installed.
        ResourceError: if there is no cluster.
    """
    ray = _ray()
    started = _connected(ray, address, None if workers is None else workers * threads)
    try:
        _quieten(ray)
        yield ray
    finally:
        if started:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise to_install("--ray needs Ray", "ray[data]>=2.40") from None
    return ray


def _connected(ray: Any, address: str, cores: int | None) -> bool:
    """Be connected to the cluster; whether this made the connection."""
    if ray.is_initialized():
        return False
    try:
        _reach(address)
        local = {"num_cpus": cores, "include_dashboard": False} if address == "local" else {"address": address}
        ray.init(**local, log_to_driver=False, logging_level="warning")
    except (OSError, RuntimeError, ValueError) as error:
        raise ResourceError(f"--ray {address}: no cluster ({' '.join(str(error).split())}); is it running?") from None
    return True


def _reach(address: str) -> None:
    """Find out at once whether somebody listens: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _quieten(ray: Any) -> None:
    """Progress is told by the run, whoever computes."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def _all(ray: Any, num_gpus: float, threads: int) -> int:
    """As many actors as the cluster has room for."""
    resources = ray.cluster_resources()
    found = resources.get("GPU", 0) / num_gpus if num_gpus else resources.get("CPU", 1) / threads
    return max(1, int(found))
