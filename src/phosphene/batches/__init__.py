"""Runs over as many pictures as there are, in shards, on one machine or a cluster; the room behind `phosphene.batch`.

It is not called `batch`, since that is the function: a module of this name would take its place in `phosphene`.
"""

from phosphene.batches.run import Cutting, Engines, batch, run_batch
from phosphene.batches.status import batch_status

__all__ = ["Cutting", "Engines", "batch", "batch_status", "run_batch"]
