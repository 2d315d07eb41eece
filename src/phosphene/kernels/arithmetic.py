"""What a variant of a network computes in."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Arithmetic:
    """Types of the passes of one variant of a network, and what may be joined.

    Args:
        forward: of a pass without a gradient.
        recorded: of the way forward of a pass with one.
        backward: of its way back. What is large, and the end of the network, goes forward in this type as well.
        folds_recorded: whether norms are folded into weights on a recorded way forward. Rounded weights are a fifth
            further from float64 than a norm of its own, and at the kinks of ReLUs that is seen (decision 0007).
        joined: whether a convolution may do the work of the convolutions behind it. Where the nodes of a graph run
            one by one, each has to return its own values.
        repeated: whether so many passes follow that kernels are compiled for a single image as well.
    """

    forward: torch.dtype = torch.float32
    recorded: torch.dtype = torch.float32
    backward: torch.dtype = torch.float32
    folds_recorded: bool = False
    joined: bool = True
    repeated: bool = False
