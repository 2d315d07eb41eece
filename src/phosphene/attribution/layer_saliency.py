"""Layer saliency: how strongly each place of a layer moves the class score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from phosphene.attribution.layer_maps import Layers, layer_map
from phosphene.classifier import Classifier
from phosphene.graph import is_passive, places_known, spatial_size
from phosphene.registry import register_attribution
from phosphene.runtime import prepare
from phosphene.targets import Target
from phosphene.types import Attribution, Layer, Size


@register_attribution(
    title="Layer saliency",
    family="gradient",
    paper="simonyan2014",
    signed=False,
    display="positive",
    caveat="Shows where a change of the layer would move the score; as coarse as the layer's grid.",
)
def layer_saliency(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    batch_size: int | None = None,
) -> Attribution:
    """The class saliency map of a layer instead of the image: the length of the score's gradient at each place.

    ``M[y, x] = ||dS/dA[:, y, x]||_2``. Class saliency (simonyan2014) takes the gradient at the image and the largest
    magnitude over its three channels; here it is taken at a layer of hundreds of channels, and the Euclidean length
    says more than the largest of them (ours). Only the gradient is used, never the activations. It is calm and close
    to the object where the image's gradient is speckled, and of all single maps it found objects best here.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        layer: a layer whose output has places, by dotted name or module; several as a+b, averaged; None for the
            middle one of those on the last grid (ours): at the very last the gradient is the same everywhere; if it is
            at the middle one, too, then that of those where it is not.
        batch_size: images per pass; None chooses.

    Returns:
        Maps (N, h, w) on the layer's grid, never negative.

    Raises:
        ModelError: if the layer's output has no places.
        NotFoundError: for an unknown layer, with the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> layer_saliency(Classifier(net), torch.rand(2, 3, 9, 9), Target.of(1), layer="0").maps.shape
        torch.Size([2, 7, 7])

    References:
        simonyan2014, section 3.1; rebuffi2020 for gradients at layers.
    """
    prepared = prepare(classifier)
    prepared.check_images(images)
    if layer is None and not target.layers and prepared.head != "boxes":
        layer = middle_layer(prepared.layers, prepared.default_layer, prepared.looks.size, prepared.looks.flat_layers)
    return layer_map(_length, classifier, images, target, layer=layer, batch_size=batch_size)


def _length(_activations: Tensor, gradients: Tensor) -> Tensor:
    return gradients.square().sum(dim=1).sqrt()


def middle_layer(
    layers: Sequence[Layer],
    last: str,
    size: Size,
    flat_layers: Callable[[Sequence[str]], frozenset[str]] = lambda _: frozenset(),
) -> str:
    """The middle one of the layers on the grid of the `last`, counted at one depth of the module tree.

    That depth is the shallowest with at least three such layers: the blocks of a stage, not the convolutions within
    them. A sequence of blocks does not count, being a stage itself, nor what only passes on what came before: a
    transformer has an embedding, dropout, a sequence of blocks and a norm above its blocks. Where no depth has three,
    it is the last layer itself. If the gradient says nothing of places there, it is the middle one of those where it
    does, as long as there is one.

    Args:
        layers: what ran, in the order of completion.
        last: one of them.
        size: of the images.
        flat_layers: tells those of some layers at which the gradient is the same everywhere.

    Example:
        >>> names = ["stem", "block.0.conv", "block.0", "block.1.conv", "block.1", "block.2", "block", "head"]
        >>> grids = {"stem": (8, 4, 4)}
        >>> layers = [Layer(name, "Block", grids.get(name, (8, 2, 2)), i) for i, name in enumerate(names)]
        >>> middle_layer(layers, "head", (64, 64))
        'block.1'
    """
    grids = {layer.name: spatial_size(layer.shape, size, layer.layout) for layer in layers}
    known = {layer.name: places_known(layer) if layer.rows == 1 else -1 for layer in layers}
    # (Weights may have the grid of the maps.)
    fitting = [one for one in layers if grids[one.name] == grids[last] and known[one.name] >= known[last]]
    chosen = _middle(fitting, last)
    if chosen not in flat_layers([chosen]):
        return chosen
    flat = flat_layers([layer.name for layer in fitting])
    told = [layer for layer in fitting if layer.name not in flat]
    return _middle(told, told[-1].name) if told else last


def _middle(layers: Sequence[Layer], last: str) -> str:
    above_blocks = {layer.name.rsplit(".", 2)[0] for layer in layers if layer.name.count(".") >= 2}
    stages = {layer.name for layer in layers if layer.kind == nn.Sequential.__name__} & above_blocks
    counted = [layer.name for layer in layers if layer.name not in stages and not is_passive(layer)]
    for depth in sorted({name.count(".") for name in counted}):
        level = [name for name in counted if name.count(".") == depth]
        if len(level) >= 3:
            return level[(len(level) - 1) // 2]
    return last
