"""The CAM family beside pytorch-grad-cam and torchcam: the same maps, up to how a library stretches what it returns.

python -m benchmarks.cam_agreement [--side PIXELS] [--count N] [--save]

The peers are given the same weights, layer, classes and normalized images. Of each method stands here the variant that
a peer computes; the error is max|a - b| / max|b| of the maps as the peer returns them, the worst image counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.__main__ import RESULTS
from benchmarks.images import photographs
from benchmarks.works.cams import shown, stretched
from benchmarks.works.networks import best_classes, embedded
from phosphene.classifier import Classifier, Preprocess
from phosphene.registry import entry, parse_spec
from phosphene.targets import Target


@dataclass(frozen=True)
class Case:
    """A network, the layer looked at, its linear layer, and what is explained.

    Args:
        name: for the table.
        classifier: the network.
        layer: its last layer with places.
        head: its linear layer.
        images: (N, 3, H, W) in [0, 1].
        classes: the best class of each.
    """

    name: str
    classifier: Classifier
    layer: str
    head: str
    images: Tensor
    classes: tuple[int, ...]

    @property
    def inputs(self) -> Tensor:
        """What the network itself is given."""
        return self.classifier.preprocess.normalize(self.images)


@dataclass(frozen=True)
class Pair:
    """A method of ours, as the spec that a peer's class computes.

    Args:
        spec: ours.
        peer: "pytorch-grad-cam" or "torchcam".
        name: the peer's class.
        either_sign: whether the sign of the peer's map is arbitrary.
    """

    spec: str
    peer: str
    name: str
    either_sign: bool = False


REPAIRED = "GradCAMpp, its division repaired"

PAIRS = (
    Pair("cam", "torchcam", "CAM"),
    Pair("grad_cam", "pytorch-grad-cam", "GradCAM"),
    Pair("grad_cam", "torchcam", "GradCAM"),
    Pair("grad_cam_pp:epsilon=1e-06", "pytorch-grad-cam", "GradCAMPlusPlus"),
    Pair("grad_cam_pp:epsilon=1e-08", "torchcam", REPAIRED),
    Pair("hires_cam", "pytorch-grad-cam", "HiResCAM"),
    Pair("layer_cam", "pytorch-grad-cam", "LayerCAM"),
    Pair("layer_cam", "torchcam", "LayerCAM"),
    Pair("eigen_cam:center=true", "pytorch-grad-cam", "EigenCAM", either_sign=True),
    Pair("score_cam:align_corners=true", "pytorch-grad-cam", "ScoreCAM"),
    Pair("score_cam:stretch=before", "torchcam", "ScoreCAM"),
    Pair("ablation_cam", "pytorch-grad-cam", "AblationCAM"),
)


def resnet18(side: int, count: int) -> Case:
    """torchvision's, with random weights under which its signals neither die nor explode."""
    from tests.zoo.networks import alive
    from torchvision import models

    network = alive(models.resnet18())
    preprocess = Preprocess((side, side), None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return _case("ResNet-18", Classifier(network, preprocess), "layer4", "fc", photographs(count, side))


def embedded_network(side: int, count: int) -> Case:
    """EfficientNet-Lite0 with its published weights."""
    return _case("EfficientNet-Lite0", embedded(), "head.2", "classifier", photographs(count, side))


def _case(name: str, classifier: Classifier, layer: str, head: str, images: Tensor) -> Case:
    return Case(name, classifier, layer, head, images, tuple(best_classes(classifier, images)))


def error(pair: Pair, case: Case) -> float:
    """How far our maps are from the peer's, as the peer returns them."""
    spec = parse_spec(pair.spec)
    method, layer = entry("attribution", spec.name), {} if spec.name == "cam" else {"layer": case.layer}
    raw = method.function(case.classifier, case.images, Target.of(case.classes), **layer, **spec.keywords).maps.numpy()
    normalized, theirs = _PEERS[pair.peer](pair.name, case)
    errors = [_errors(normalized(sign * raw), theirs) for sign in ((1, -1) if pair.either_sign else (1,))]
    return float(np.min(errors, axis=0).max())


def _errors(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """max|a - b| / max|b| of each image."""
    got, wanted = (values.reshape(len(values), -1) for values in (got, wanted))
    return np.asarray(np.abs(got - wanted).max(1) / np.abs(wanted).max(1))


Normalized = Callable[[np.ndarray], np.ndarray]


def pytorch_grad_cam(name: str, case: Case) -> tuple[Normalized, np.ndarray]:
    """(what the library does to raw maps, its maps)."""
    import pytorch_grad_cam as library
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module = case.classifier.module
    side = int(case.images.shape[-1])
    with getattr(library, name)(module, [module.get_submodule(case.layer)]) as method:
        maps = method(case.inputs, [ClassifierOutputTarget(label) for label in case.classes])
    return lambda raw: shown(raw, side), maps


def torchcam(name: str, case: Case) -> tuple[Normalized, np.ndarray]:
    """(what the library does to raw maps, its maps); CAM alone keeps the negative part."""
    import torchcam.methods as library

    module = case.classifier.module
    make: Any = _repaired if name == REPAIRED else getattr(library, name)
    with make(module, case.layer, **({"fc_layer": case.head} if name == "CAM" else {})) as method:
        logits = module(case.inputs.requires_grad_())
        maps = method(list(case.classes), logits)[0].detach().numpy()
    return (lambda raw: stretched(raw, positive=name != "CAM")), maps


_PEERS = {"pytorch-grad-cam": pytorch_grad_cam, "torchcam": torchcam}


def _repaired(module: nn.Module, layer: str) -> Any:
    """torchcam's GradCAMpp by its own documented formula.

    As published (0.5.0) it divides a copy of alpha, which is thrown away, so that its weights are the sum of
    g^2 relu(g).
    """
    from torchcam.methods import GradCAMpp

    class Repaired(GradCAMpp):
        def _get_weights(self, class_idx: Any, scores: Tensor, eps: float = 1e-8, **kwargs: Any) -> list[Tensor]:
            self._backprop(scores, class_idx, **kwargs)
            found = []
            for activation, gradient in zip(self.hook_a, self.hook_g, strict=True):
                total = (gradient**3 * activation).sum((2, 3), keepdim=True)
                alpha = torch.where(gradient == 0, 0, gradient**2 / (2 * gradient**2 + total + eps))
                found.append((alpha * gradient.relu()).sum((2, 3)))
            return found

    return Repaired(module, layer)


def measure(cases: list[Case]) -> dict[Pair, list[float]]:
    """The error of every pair on every network."""
    found: dict[Pair, list[float]] = {}
    for pair in PAIRS:
        found[pair] = [error(pair, case) for case in cases]
        print(pair.spec, pair.peer, found[pair], flush=True)
    return found


def page(found: dict[Pair, list[float]], cases: list[Case]) -> str:
    """The table as a Markdown page."""
    count, side = len(cases[0].images), cases[0].images.shape[-1]
    lines = [
        "# The CAM family beside other libraries",
        "",
        f"{count} photographs at {side} px in float32, with the same weights, layer and classes on both sides:",
        "ResNet-18 with random weights, EfficientNet-Lite0 with its published ones. Maps are compared as the other",
        "library returns them, stretched to [0, 1]; the error is max|a - b| / max|b|, the worst image counts",
        "(`python -m benchmarks.cam_agreement --save`).",
        "",
        "| method | beside | " + " | ".join(case.name for case in cases) + " |",
        "|---|---|" + "---|" * len(cases),
    ]
    for pair, errors in found.items():
        figures = " | ".join(f"{value:.1e}" for value in errors)
        lines.append(f"| `{pair.spec}` | {pair.peer} {pair.name} | {figures} |")
    return "\n".join([*lines, "", *_NOTES]) + "\n"


_NOTES = (
    "Where an option is named, the default differs because the paper does:",
    "",
    "- `grad_cam_pp`: the libraries add 1e-6 and 1e-8 to the denominator of alpha, which on real networks is of the",
    "  size of its terms. torchcam 0.5.0 moreover divides a copy that it throws away, so that its weights are the",
    "  plain sum of g^2 relu(g); beside the formula that it documents the maps are the same.",
    "- `eigen_cam`: pytorch-grad-cam centers the activations first and leaves the sign to chance.",
    "- `score_cam`: the masks of the paper are enlarged, then stretched. torchcam stretches first; pytorch-grad-cam",
    "  enlarges so that the outer cells lie on the border pixels.",
    "",
    "HiResCAM, EigenCAM and Ablation-CAM are not in torchcam, CAM is not in pytorch-grad-cam.",
)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224, help="pixels (224)")
    parser.add_argument("--count", type=int, default=3, help="photographs (3)")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/cams.md")
    given = parser.parse_args()
    cases = [make(given.side, given.count) for make in (resnet18, embedded_network)]
    text = page(measure(cases), cases)
    print(text)
    if given.save:
        (RESULTS / "cams.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
