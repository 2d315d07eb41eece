"""A network of ordinary layers, its float64 oracle, and how near to it the library has to come."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from phosphene.attribution.occlusion import occlusion
from phosphene.classifier import Classifier
from phosphene.runtime import forward, input_gradient
from phosphene.targets import Target

Make = Callable[[], nn.Module]


def ordinary() -> nn.Sequential:
    """Dense, depthwise and 1 x 1 convolutions with norms and ReLUs: all that runs by another way."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return network.eval()


def pictures(count: int = 3) -> Tensor:
    """(count, 3, 24, 24) in [0, 1], one darker than the other."""
    images = torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    return images * torch.linspace(0.4, 1, count).view(-1, 1, 1, 1)


def error(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    return float((got.detach().double() - wanted.detach()).abs().max() / wanted.detach().abs().max())


def errors(classifier: Classifier, oracle: nn.Module, images: Tensor) -> dict[str, float]:
    """Of scores, gradients and covered scores against an oracle in float64, each image by itself."""
    single = images.double().split(1)
    leaves = [image.clone().requires_grad_() for image in single]
    rows = [oracle(leaf) for leaf in leaves]
    gradients = [torch.autograd.grad(row[:, 1].sum(), leaf)[0] for row, leaf in zip(rows, leaves, strict=True)]
    covered = images.double().clone()
    covered[:, :, 6:12, 6:12] = 0
    with torch.no_grad():
        hidden = torch.cat([oracle(image)[:, 1] for image in covered.split(1)])
    target = Target.of(1, score="logit")
    found = occlusion(classifier, images, target, window=(6, 6), stride=(6, 6), fill="black")
    return {
        "scores": error(forward(classifier, images), torch.cat(rows)),
        "gradient": error(input_gradient(classifier, images, target)[1], torch.cat(gradients)),
        "occlusion": error(found.maps[:, 1, 1], hidden),
    }


def assert_right(make: Make, classifier: Classifier | None = None, most: float = 1e-5) -> None:
    """The library explains what `make` makes, in float64 and one image at a time.

    Args:
        make: a network; called twice, so that the oracle shares nothing with what is explained.
        classifier: one around a network in the same state, if not made here.
        most: error allowed.
    """
    found = errors(classifier or Classifier(make()), in_double(make()), pictures())
    assert max(found.values()) <= most, found


def in_double(network: nn.Module) -> nn.Module:
    """The network with everything in float64: plain attributes too, and convolutions and norms that hold them."""
    for child in network.modules():
        for key, value in vars(child).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(child)[key] = value.double()
    return network.double()


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor that hangs on a module: parameters, buffers, plain attributes, gradients."""
    found = {f"parameter {name}": value for name, value in module.named_parameters()}
    found |= {f"gradient {name}": value.grad for name, value in module.named_parameters() if value.grad is not None}
    found |= {f"buffer {name}": value for name, value in module.named_buffers()}
    for name, child in module.named_modules():
        found |= {f"attribute {name}.{key}": value for key, value in vars(child).items() if isinstance(value, Tensor)}
    return {name: copy.deepcopy(value.detach()) for name, value in found.items()}
