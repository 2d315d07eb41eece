"""What recipes begin with: the size of the image, and the image they start from."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.runtime import forward
from phosphene.synthesis.streams import Streams
from phosphene.types import Size


def canvas_size(classifier: Classifier) -> Size:
    """(height, width) of the images a recipe makes: the network's input, or 224 x 224 where it takes any size."""
    return classifier.preprocess.size or (224, 224)


def class_count(classifier: Classifier) -> int:
    """How many scores the network gives for an image."""
    return forward(classifier, classifier.mean_image.expand(1, -1, *canvas_size(classifier))).shape[1]


def noisy_mean(classifier: Classifier, streams: Streams, noise: float, kind: str = "uniform") -> Tensor:
    """(N, C, H, W) the mean image, with each value off by uniform [-noise, noise] or Gaussian noise, kept in [0, 1].

    With ``kind="range"`` the values are uniform over the whole valid range instead: the mean image plus U[0, 255]
    as the paper prints it would leave that range for half of the values (our reading).
    """
    size = canvas_size(classifier)
    shape = (classifier.preprocess.channels, *size)
    draws = streams.at(0).under("start")
    if kind == "range":
        return draws.field("noise", shape).to(classifier.device)
    drawn = draws.normal_field("noise", shape) if kind == "normal" else 2 * draws.field("noise", shape) - 1
    return (classifier.mean_picture(size) + noise * drawn.to(classifier.device)).clamp(0, 1).float()


def half_side(size: Size, fraction: float) -> int:
    """A radius given as a fraction of the shorter side, in whole pixels, small enough to fit inside the frame."""
    return max(0, min(round(fraction * min(size)), (min(size) - 1) // 2))


def takes_size(classifier: Classifier, size: Size) -> bool:
    """Whether the network answers to images of a size that is not its own."""
    image = classifier.mean_image.expand(1, -1, *size)
    try:
        forward(classifier, image)
    except Exception:  # the network's own code runs on a size it may not know: anything may be raised
        return False
    return True


def close_view(classifier: Classifier, fraction: float, size: Size) -> Size | None:
    """(height, width) of a part of the image for the network to see alone; None for all, or where it takes one size."""
    part = (round(fraction * size[0]), round(fraction * size[1]))
    return part if fraction < 1 and takes_size(classifier, part) else None


def moved_to_middle(images: Tensor, centers: Tensor) -> Tensor:
    """Images (N, C, H, W) moved so that each one's center (row, column) is the middle pixel; what leaves comes back.

    Example:
        >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> moved_to_middle(image, torch.tensor([[0, 0]]))[0, 0, 1, 1].item()
        0.0
    """
    height, width = images.shape[-2:]
    centers = centers.to(images.device)
    rows = (torch.arange(height, device=images.device) - height // 2 + centers[:, :1]) % height  # (N, H)
    columns = (torch.arange(width, device=images.device) - width // 2 + centers[:, 1:]) % width  # (N, W)
    moved = images.gather(2, rows[:, None, :, None].expand_as(images))
    return moved.gather(3, columns[:, None, None, :].expand_as(images))


def probability_of(logits: Tensor, classes: Tensor) -> Tensor:
    """(N,) softmax probability of one class per row."""
    return torch.softmax(logits, dim=1).gather(1, classes[:, None])[:, 0]
