"""Agreement with captum, image by image, and seconds beside captum's, on real photographs.

Run `python benchmarks/agreement.py FOLDER`. The error of a map is max|a - b| / max|b|, the worst image counts; captum
is called on normalisation and network together, in float32, one image at a time as phosphene is, so that the seconds
can be compared. The first call of each side is not timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import captum
import torch
from captum.attr import InputXGradient, LayerGradCam, Occlusion, Saliency
from torch import Tensor, nn

import phosphene
from phosphene.attribution.cam import cam
from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.input_x_gradient import input_x_gradient
from phosphene.attribution.occlusion import occlusion
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier
from phosphene.images import list_images, read_image
from phosphene.targets import Target
from phosphene.zoo import load_classifier

Pair = tuple[Callable[[Tensor, int], Tensor], Callable[[Tensor, int], Tensor]]


@dataclass(frozen=True)
class Row:
    """One method: the worst error, what was asked for, and the median seconds per image of both."""

    method: str
    error: float
    asked: float
    seconds: float
    peer: str
    peer_seconds: float

    @property
    def holds(self) -> bool:
        return self.error <= self.asked


class Normalized(nn.Module):
    """Normalisation and network in one, on images in [0, 1]: what captum is given."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier.module
        self.register_buffer("mean", torch.tensor(classifier.preprocess.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(classifier.preprocess.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def pairs(classifier: Classifier, window: int = 32, stride: int = 16) -> dict[str, tuple[str, float, Pair]]:
    """By method: captum's counterpart, the error asked for, and both as functions of (image, class index)."""
    module = Normalized(classifier).eval()
    fill = classifier.mean_image[None]

    def probability(images: Tensor) -> Tensor:
        return module(images).softmax(dim=1)

    def our_occlusion(image: Tensor, index: int) -> Tensor:
        spec = {"window": (window, window), "stride": (stride, stride), "positions": "covering"}
        evidence = occlusion(classifier, image, Target.of(index), **spec).evidence
        assert evidence is not None
        return evidence

    def captum_occlusion(image: Tensor, index: int) -> Tensor:
        channels = image.shape[1]
        with torch.no_grad():
            found = Occlusion(probability).attribute(
                image,
                target=index,
                sliding_window_shapes=(channels, window, window),
                strides=(channels, stride, stride),
                baselines=fill.expand_as(image),
                perturbations_per_eval=8,
            )
        return found[:, 0]

    layer = module.network.get_submodule(phosphene.prepare(classifier).default_layer)
    return {
        "saliency": (
            "Saliency",
            1e-5,
            (
                lambda image, index: saliency(classifier, image, Target.of(index)).maps,
                lambda image, index: Saliency(module).attribute(image, target=index).amax(dim=1),
            ),
        ),
        "input_x_gradient": (
            "InputXGradient",
            1e-5,
            (
                lambda image, index: input_x_gradient(classifier, image, Target.of(index)).maps,
                lambda image, index: InputXGradient(module).attribute(image, target=index).sum(dim=1),
            ),
        ),
        "grad_cam:relu=true": (
            "LayerGradCam",
            1e-5,
            (
                lambda image, index: grad_cam(classifier, image, Target.of(index), relu=True).maps,
                lambda image, index: LayerGradCam(module, layer).attribute(image, index, relu_attributions=True)[:, 0],
            ),
        ),
        "grad_cam": (
            "LayerGradCam",
            1e-5,
            (
                lambda image, index: grad_cam(classifier, image, Target.of(index)).maps,
                lambda image, index: LayerGradCam(module, layer).attribute(image, index)[:, 0],
            ),
        ),
        f"occlusion:window={window},stride={stride},positions=covering": (
            "Occlusion",
            1e-4,
            (our_occlusion, captum_occlusion),
        ),
    }


def measure(classifier: Classifier, images: Tensor, *, window: int = 32, stride: int = 16) -> list[Row]:
    """One row per method with a counterpart in captum, and CAM against the logit it must add up to."""
    with torch.no_grad():
        classes = classifier.logits(images).argmax(dim=1).tolist()
    rows = []
    for method, (peer, asked, (ours, theirs)) in pairs(classifier, window, stride).items():
        errors, seconds, peer_seconds = [], [], []
        for number, (image, index) in enumerate(zip(images.split(1), classes, strict=True)):
            if number == 0:
                ours(image, index)
                theirs(image.clone(), index)
            got, spent = _timed(ours, image, index)
            expected, peer_spent = _timed(theirs, image.clone(), index)
            errors.append(error(got, expected))
            seconds.append(spent)
            peer_seconds.append(peer_spent)
        rows.append(Row(method, max(errors), asked, _median(seconds), peer, _median(peer_seconds)))
    return [*rows, cam_row(classifier, images, classes)]


def cam_row(classifier: Classifier, images: Tensor, classes: list[int]) -> Row:
    """CAM has no counterpart: the mean of its map and the bias must give the logit of the plain network."""
    with torch.no_grad():
        logits = classifier.logits(images)
    bias = classifier.module.get_submodule("classifier").bias
    assert isinstance(bias, Tensor)
    errors, seconds = [], []
    for number, (image, index) in enumerate(zip(images.split(1), classes, strict=True)):
        result, spent = _timed(lambda image, index: cam(classifier, image, Target.of(index)).maps, image, index)
        total = float(result.mean() + bias[index].detach())
        logit = float(logits[number, index])
        errors.append(abs(total - logit) / abs(logit))
        seconds.append(spent)
    return Row("cam (adds up to the logit)", max(errors), 1e-4, _median(seconds), "", float("nan"))


def error(got: Tensor, expected: Tensor) -> float:
    """max|a - b| / max|b| of one map."""
    expected = expected.detach()
    return float((got - expected).abs().max() / expected.abs().max())


def _timed(function: Callable[[Tensor, int], Tensor], image: Tensor, index: int) -> tuple[Tensor, float]:
    start = time.perf_counter()
    found = function(image, index)
    return found, time.perf_counter() - start


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def table(rows: list[Row]) -> str:
    """The rows for people."""
    lines = [f"{'method':52} {'error':>9} {'asked':>9}        {'s / image':>9}  captum"]
    for row in rows:
        peer = f"{row.peer_seconds:.4f} ({row.peer_seconds / row.seconds:.1f} x)" if row.peer else ""
        mark = "ok" if row.holds else "MISSED"
        lines.append(f"{row.method:52} {row.error:9.1e} {row.asked:9.0e} {mark:6} {row.seconds:9.4f}  {peer}")
    return "\n".join(lines)


def main() -> None:
    """Read the pictures, measure, print the table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a folder of pictures")
    parser.add_argument("--count", type=int, default=8, help="how many of them, evenly spread (8)")
    parser.add_argument("--window", type=int, default=32, help="side of the occluding window (32)")
    parser.add_argument("--stride", type=int, default=16, help="its step (16)")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch")
    parser.add_argument("--json", type=Path, default=None, help="also write the JSON object there")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    paths = list_images(given.folder)
    paths = paths[:: max(1, len(paths) // given.count)][: given.count]
    classifier = load_classifier("embedded")
    pictures = [read_image(path) for path in paths]
    rows = measure(
        classifier,
        classifier.preprocessed(pictures, classifier.views(pictures)),
        window=given.window,
        stride=given.stride,
    )
    print(table(rows), file=sys.stderr)
    answer = {
        "model": classifier.name,
        "images": [path.name for path in paths],
        "threads": torch.get_num_threads(),
        "versions": {
            "phosphene": phosphene.__version__,
            "torch": torch.__version__,
            "captum": captum.__version__,
        },
        "rows": [
            {**asdict(row), "holds": row.holds, "peer_seconds": row.peer_seconds if row.peer else None} for row in rows
        ],
    }
    text = json.dumps(answer, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
