"""What the axes of a value inside a network are: images, channels or places, followed from operation to operation.

The lengths of the axes say nothing: 48 channels on 64 x 8 places look like 48 x 64 places of 8 channels. So the axes
of the images are named (`names`), and each operation of PyTorch hands on the names (`rules`) and which part of the
picture it is (`extent`). `follow` is the mode that sees the operations.
"""

from phosphene.axes.call import Operations, tensors_in
from phosphene.axes.extent import WHOLE, Part
from phosphene.axes.follow import Follow
from phosphene.axes.names import (
    PLACES,
    Axes,
    are_channels,
    has_places,
    is_tokens_first,
)

__all__ = [
    "PLACES",
    "WHOLE",
    "Axes",
    "Follow",
    "Operations",
    "Part",
    "are_channels",
    "has_places",
    "is_tokens_first",
    "tensors_in",
]
