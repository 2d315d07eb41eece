"""Guided Grad-CAM: the detail of guided back-propagation where Grad-CAM finds the class."""

from __future__ import annotations

from torch import Tensor

from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.guided_backprop import guided_backprop
from phosphene.attribution.layer_maps import Layers
from phosphene.attribution.relu_rules import Reduce
from phosphene.attribution.result import attribution, plain
from phosphene.classifier import Classifier
from phosphene.grids import to_network_size
from phosphene.maps import max_over_channels
from phosphene.registry import register_attribution
from phosphene.targets import Target
from phosphene.types import Attribution


@register_attribution(
    title="Guided Grad-CAM",
    family="gradient",
    paper="selvaraju2017",
    display="percentile",
    caveat="Only the coarse part knows the class; the fine lines are those of guided back-propagation.",
)
def guided_grad_cam(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    reduce: Reduce = "sum",
    batch_size: int | None = None,
) -> Attribution:
    """The fine structure of the image in the places that speak for the class.

    Guided back-propagation times the positive part of Grad-CAM, enlarged bilinearly to the image.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is explained.
        layer: the layer of Grad-CAM, by dotted name or module; several as a+b, averaged; None for the last.
        reduce: what becomes of the color channels: their sum, or the largest magnitude.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, H, W); `reconstruction` holds the color channels.

    Raises:
        ModelError: for an activation without a ReLU rule, or a layer whose output has no places.
        NotFoundError: for an unknown layer, with the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> guided_grad_cam(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1)).maps.shape
        torch.Size([2, 8, 8])

    References:
        selvaraju2017, section 3.2.
    """
    coarse = grad_cam(classifier, images, target, layer=layer, batch_size=batch_size)
    fine = guided_backprop(classifier, images, target, batch_size=batch_size).reconstruction
    assert fine is not None
    places = to_network_size(coarse.maps.clamp(min=0), coarse.offset, coarse.stride, coarse.size)
    product = plain(fine * places[:, None])
    maps = product.sum(dim=1) if reduce == "sum" else max_over_channels(product)
    return attribution(maps, images, target, coarse.score, layer=coarse.layer, reconstruction=product)
