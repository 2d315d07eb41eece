"""Average drop and increase: does the class survive when only what the map marks is left?"""

from __future__ import annotations

from torch import Tensor

from phosphene.devices import wide
from phosphene.errors import OptionError
from phosphene.maps import normalize
from phosphene.metrics.pairs import check_pair
from phosphene.registry import register_metric


def explanation_images(images: Tensor, maps: Tensor, fill: Tensor) -> Tensor:
    """The images dimmed by their own maps: full where the map is highest, `fill` where it is lowest.

    ``E = M * I + (1 - M) * fill`` with M the map stretched to [0, 1]. The paper multiplies the network's normalized
    input by M; with `fill` the classifier's mean image that is the same.

    Args:
        images: (N, C, H, W) in [0, 1].
        maps: (N, H, W); what counts as evidence, positive part already taken where that is meant.
        fill: (C, 1, 1) in [0, 1].

    Returns:
        (N, C, H, W) in [0, 1].
    """
    check_pair(images[:, 0], maps)
    share = normalize(maps)[:, None].to(images)
    return share * images + (1 - share) * fill.to(images)


@register_metric(title="Average drop", paper="chattopadhay2018", family="faithfulness")
def average_drop(clean: Tensor, explained: Tensor) -> float:
    """Which part of the class's probability is lost, on average, when only what the map marks is left; low is good.

    ``mean over images of max(0, Y - O) / Y``. A map that marks the whole image loses nothing, so the measure favors
    large maps; read it beside the deletion curve.

    Args:
        clean: (N,) probability Y of the class on the images.
        explained: (N,) probability O on the explanation images.

    Returns:
        A number in [0, 1]; the paper gives it in per cent.

    Raises:
        OptionError: if the shapes differ or a clean probability is not positive.

    Example:
        >>> average_drop(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 1.0]))
        0.25

    References:
        chattopadhay2018, section 4.1.
    """
    _check(clean, explained)
    clean, explained = wide(clean), wide(explained)
    return float(((clean - explained) / clean).clamp(min=0).mean())


@register_metric(title="Average increase", paper="chattopadhay2018", family="faithfulness")
def average_increase(clean: Tensor, explained: Tensor) -> float:
    """How often the class becomes more probable when only what the map marks is left; often is good.

    The share of images with ``O > Y``, which the paper calls increase in confidence.

    Args:
        clean: (N,) probability Y of the class on the images.
        explained: (N,) probability O on the explanation images.

    Returns:
        A number in [0, 1]; the paper gives it in per cent.

    Raises:
        OptionError: if the shapes differ or a clean probability is not positive.

    Example:
        >>> average_increase(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 1.0]))
        0.5

    References:
        chattopadhay2018, section 4.1.
    """
    _check(clean, explained)
    return float(wide(explained > clean).mean())


def _check(clean: Tensor, explained: Tensor) -> None:
    if clean.ndim != 1 or clean.shape != explained.shape or clean.numel() == 0:
        shapes = f"{tuple(clean.shape)} and {tuple(explained.shape)}"
        raise OptionError(f"probabilities of shapes {shapes}; expected (N,) each, with N of at least 1")
    if not bool((clean > 0).all()):
        raise OptionError("a probability of 0 on the clean image cannot drop; leave such images out")
