"""The networks that the papers looked into: "papers:cnn_f" and "papers:conv64_256x4", for weights that the user has.

Both are Krizhevsky's network made narrower: five convolutions, local response normalization behind the first two, max
pooling, three fully connected layers. CNN-F (VGG-F) is what saliency-driven class impressions were drawn from; the
other is that of Deep Inside Convolutional Networks, whose weights were never published.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from phosphene.classifier import Classifier, MeanPicture, Preprocess
from phosphene.errors import ModelError, NotFoundError, suggest
from phosphene.zoo.caffe import read_caffemodel, read_mean
from phosphene.zoo.embedded import imagenet_labels
from phosphene.zoo.matconvnet import read_matconvnet
from phosphene.zoo.source import model_source
from phosphene.zoo.weights import State, Weights, built_for, class_count, is_local, place_weights

# The mean color of ImageNet as bytes, red first: what the published weights are fed where no mean picture is there.
_MEAN = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class Variant:
    """What differs between the two networks: the zeros around the picture, and what is said where weights lack."""

    padding: int
    weights: str


VARIANTS = {
    "cnn_f": Variant(0, "imagenet-vgg-f.mat of MatConvNet or VGG_CNN_F.caffemodel"),
    "conv64_256x4": Variant(2, "weights of your own; those of the paper were never published"),
}


class NarrowAlexNet(nn.Module):
    """conv64-conv256-conv256-conv256-conv256-full4096-full4096-full1000, for pictures of 224 x 224.

    Kernels of 11 (stride 4), 5, 3, 3 and 3; response normalization over 5 channels (k 2, alpha 5e-4 / 5, beta .75); max
    pooling of 3 every 2 behind the first, second and last convolution.

    Args:
        padding: zeros around the picture: 0 in CNN-F, 2 as in Krizhevsky's network.
        classes: number of outputs.
        hidden: width of the two hidden fully connected layers.

    Example:
        >>> import torch
        >>> NarrowAlexNet(classes=10, hidden=16).eval()(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 10])

    References:
        chatfield2014, table 1; simonyan2014, section 1, whose kernel sizes are not given: krizhevsky2012's are taken.
    """

    def __init__(self, padding: int = 0, classes: int = 1000, hidden: int = 4096) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = 3
        for number, (channels, kernel, stride, pad) in enumerate(
            ((64, 11, 4, padding), (256, 5, 1, 2), (256, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)), 1
        ):
            layers[f"conv{number}"] = nn.Conv2d(inputs, channels, kernel, stride, pad)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            if number <= 2:
                layers[f"norm{number}"] = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
            if number in (1, 2, 5):
                layers[f"pool{number}"] = nn.MaxPool2d(3, 2, ceil_mode=True)
            inputs = channels
        self.features = nn.Sequential(layers)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            OrderedDict(
                fc6=nn.Linear(256 * 6 * 6, hidden),
                relu6=nn.ReLU(inplace=True),
                drop6=nn.Dropout(0.5),
                fc7=nn.Linear(hidden, hidden),
                relu7=nn.ReLU(inplace=True),
                drop7=nn.Dropout(0.5),
                fc8=nn.Linear(hidden, classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.flatten(self.features(x)))
        return scores


@model_source("papers", "papers:cnn_f", "papers:conv64_256x4")
def load(name: str, weights: Weights = None) -> Classifier:
    """A network of the papers with weights from a file.

    Args:
        name: "cnn_f" or "conv64_256x4".
        weights: MatConvNet's .mat file (with its own mean picture; RGB), a .caffemodel (BGR; with the mean picture of a
            .binaryproto of the same name beside it, if there is one), .safetensors or a state dict with the names of
            NarrowAlexNet (RGB), of any number of classes; "random" for an untrained network.

    Raises:
        NotFoundError: for another name.
        ModelError: without weights, or if they do not fit.
    """
    if name not in VARIANTS:
        raise NotFoundError(f"no network 'papers:{name}'{suggest(name, VARIANTS)} (there are: {', '.join(VARIANTS)})")
    variant = VARIANTS[name]
    preprocess = Preprocess((224, 224), 256, _MEAN, (1.0,) * 3, "bilinear", scale=255.0)

    def build(classes: int | None) -> NarrowAlexNet:
        return NarrowAlexNet(variant.padding, classes or 1000)

    if weights is None:
        raise ModelError(f"papers:{name} comes without weights; give a file: --weights FILE ({variant.weights})")
    if not is_local(weights):
        return Classifier(build(None).eval(), preprocess, imagenet_labels(), name=f"papers:{name}")
    network, classes, preprocess = _with_weights(Path(weights), build, preprocess)
    labels = imagenet_labels() if classes is None else None
    return Classifier(network.eval(), preprocess, labels, name=f"papers:{name}")


def _with_weights(
    path: Path, build: Callable[[int | None], NarrowAlexNet], preprocess: Preprocess
) -> tuple[nn.Module, int | None, Preprocess]:
    """The network with the weights of a file, its number of classes if not 1000, and how these weights are fed."""
    if path.suffix == ".mat":
        layers, mean = read_matconvnet(path)
        preprocess = preprocess if mean is None else replace(preprocess, mean_picture=MeanPicture(mean))
    elif path.suffix == ".caffemodel":
        layers, mean = read_caffemodel(path), read_mean(path.with_suffix(".binaryproto"))
        picture = None if mean is None else MeanPicture(mean)
        preprocess = replace(preprocess, mean=_MEAN[::-1], mean_picture=picture, order="BGR")
    else:
        return *built_for(path, build), preprocess
    state = _state_of(layers)
    network = build(None)
    classes = class_count(state, network)
    network = network if classes is None else build(classes)
    place_weights(network, state, path)
    return network, classes, preprocess


def _state_of(layers: dict[str, tuple[Tensor, Tensor]]) -> State:
    """The state dict of NarrowAlexNet from (weight (K, C, h, w) or (K, C), bias) by the published layers' names."""
    state: State = {}
    for name, (weight, bias) in layers.items():
        room = "features" if name.startswith("conv") else "classifier"
        state[f"{room}.{name}.weight"] = weight.flatten(1) if room == "classifier" else weight
        state[f"{room}.{name}.bias"] = bias
    return state
