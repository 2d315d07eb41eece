"""Runs over as many pictures as there are, in shards, on one machine or a cluster; the room behind `phosphene.batch`.

Whatever comes in parts can be made by its engines: an atlas is.

It is not called `batch`, since that is the function: a module of this name would take its place in `phosphene`.
"""

from phosphene.batches.crew import Crew
from phosphene.batches.engines import Engine, InProcess
from phosphene.batches.guard import Again
from phosphene.batches.run import Cutting, Engines, batch, run_batch
from phosphene.batches.status import batch_status

__all__ = [
    "Again",
    "Crew",
    "Cutting",
    "Engine",
    "Engines",
    "InProcess",
    "batch",
    "batch_status",
    "run_batch",
]
