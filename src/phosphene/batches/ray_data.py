"""The shards of a run made on a Ray cluster, by the same function on a pool of actors (extra `[ray]`)."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from phosphene.batches.child import Child
from phosphene.batches.engines import with_threads
from phosphene.batches.guard import Guarded
from phosphene.batches.work import Made, Shard, Tell, Work
from phosphene.cancel import Cancel
from phosphene.errors import ResourceError, to_install


@dataclass(frozen=True)
class RayData:
    """Ray Data: one row of its data set is a shard, one actor of its pool a worker that holds its classifier.

    Actors that die, and those of nodes that die, are started elsewhere by Ray, which gives them their shard once more.
    What kills an actor's own worker, such as a picture, is dealt with in the actor.

    Args:
        address: "local" for a cluster in this machine, or that of one that runs.
        workers: actors; None for one for each core, or for each GPU.
        num_gpus: of each actor.
        pictures_at_once: of a batch.
    """

    address: str
    workers: int | None
    num_gpus: float
    pictures_at_once: int

    def run(self, work: Work, shards: Iterator[Shard], tell: Tell, cancel: Cancel) -> Iterator[Made]:
        """What was made, as it comes; progress is told shard by shard.

        Raises:
            MissingExtraError: if Ray is not installed.
            ResourceError: if there is no cluster, or it cannot go on.
        """
        ray = _ray()
        waiting = [{"shard": pickle.dumps(shard)} for shard in shards]
        if not waiting:
            return
        started = _connected(ray, self.address, self.workers)
        _quieten(ray)
        try:
            workers = self.workers or _all(ray, self.num_gpus)
            threads = work.model.threads or 1
            told = ray.data.from_items(waiting, override_num_blocks=len(waiting)).map_batches(
                _Actor,
                fn_constructor_args=(with_threads(work, threads), self.pictures_at_once, os.getcwd()),
                batch_size=1,
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                num_cpus=threads,
                num_gpus=self.num_gpus,
            )
            for row in told.iter_rows():
                made: Made = pickle.loads(row["made"])
                tell(made.number, made.counts)
                yield made
                cancel.raise_if_cancelled()
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            raise ResourceError(f"--ray {self.address}: {' '.join(str(cause).split())[-400:]}") from None
        finally:
            if started:
                ray.shutdown()


class _Actor:
    """Holds one worker for all the shards that Ray gives it."""

    def __init__(self, work: Work, pictures_at_once: int, folder: str) -> None:
        with suppress(OSError):  # where paths are relative, and nodes share a disk
            os.chdir(folder)
        self._guarded = Guarded(Child(work, threads=(work.model.threads or 1) + 1), pictures_at_once)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        made = [self._guarded.make(pickle.loads(shard), lambda _number, _counts: None) for shard in batch["shard"]]
        return {"made": [pickle.dumps(one) for one in made]}


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise to_install("--ray needs Ray", "ray[data]>=2.40") from None
    return ray


def _connected(ray: Any, address: str, workers: int | None) -> bool:
    """Be connected to the cluster; whether this made the connection."""
    if ray.is_initialized():
        return False
    try:
        _reach(address)
        local = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {"address": address}
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


def _all(ray: Any, num_gpus: float) -> int:
    """As many actors as the cluster has room for."""
    resources = ray.cluster_resources()
    found = resources.get("GPU", 0) / num_gpus if num_gpus else resources.get("CPU", 1)
    return max(1, int(found))
