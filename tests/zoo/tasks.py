"""The kinds of networks that there are, by task, each small and with random weights, and the question put to it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision import models

from phosphene import ScoreFunction, load_classifier
from phosphene.classifier import Classifier, Preprocess
from phosphene.output_targets import Detected, Region, Similar
from phosphene.targets import Target
from tests.networks import MEAN, STD, pooled
from tests.zoo import networks, test_hf, test_onnx, test_tflite
from tests.zoo.networks import CLASSES, SIZE, alive

EMBEDDING = "an embedding"

Make = Callable[[], Classifier]
Ask = Callable[[Classifier, Tensor], Target]


@dataclass(frozen=True)
class Task:
    """Networks that are asked the same.

    Args:
        networks: makes each.
        target: the question, for a network and an image.
    """

    networks: Mapping[str, Make]
    target: Ask


def a_class(_classifier: Classifier, _image: Tensor) -> Target:
    return Target.of(1)


def a_region(classifier: Classifier, image: Tensor) -> Target:
    side = float(image.shape[-1])
    return Region(1, (side / 8, side / 8, side / 2, side / 2))


def an_object(classifier: Classifier, image: Tensor) -> Target:
    """The network's own best box."""
    with torch.no_grad():
        raw = classifier.module(classifier.preprocess.normalize(image))
    if isinstance(raw, list):  # as torchvision's detectors answer
        best = int(raw[0]["scores"].argmax())
        return Detected(int(raw[0]["labels"][best]), tuple(raw[0]["boxes"][best].tolist()))
    chances = raw["logits"][0].softmax(dim=-1)[:, :-1]
    query, index = divmod(int(chances.argmax()), chances.shape[1])
    middle, sides = (raw["pred_boxes"][0, query] * image.shape[-1]).split(2)
    return Detected(index, tuple(torch.cat([middle - sides / 2, middle + sides / 2]).tolist()))


def a_likeness_or_a_class(classifier: Classifier, image: Tensor) -> Target:
    """Of an embedding how like it is to that of the picture upside down, of others an output."""
    if classifier.name != EMBEDDING:
        return Target.of(1)
    return Similar(tuple(classifier.logits(image.flip(-2))[0].tolist()))


def _of_the_zoo(*names: str) -> dict[str, Make]:
    return {name: lambda name=name: networks.classifier(name) for name in names}  # type: ignore[misc]


def _of_transformers(write: Callable[..., Path], **facts: Any) -> Make:
    """Made and saved by transformers itself, and read from its folder."""

    def make() -> Classifier:
        with tempfile.TemporaryDirectory() as folder:
            return load_classifier(f"hf:{write(Path(folder), **facts)}")

    return make


def _vit(folder: Path) -> Path:
    whole = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": list(MEAN), "image_std": list(STD)}
    return test_hf.processor(test_hf.vit(folder), "ViTImageProcessor", **whole)


def _distilled() -> Classifier:
    module = alive(
        _seeded(lambda: timm.create_model("deit_tiny_distilled_patch16_224", img_size=SIZE, num_classes=CLASSES))
    )
    return Classifier(module, Preprocess((SIZE, SIZE), None, MEAN, STD))


def _segmenter(build: Callable[..., nn.Module]) -> Make:
    def make() -> Classifier:
        module = alive(_seeded(lambda: build(weights=None, weights_backbone=None, num_classes=CLASSES)))
        return Classifier(module, Preprocess((SIZE, SIZE), None, MEAN, STD), head="maps")

    return make


def _detector(build: Callable[..., nn.Module], **facts: Any) -> Make:
    def make() -> Classifier:
        module = alive(_seeded(lambda: build(weights=None, weights_backbone=None, num_classes=CLASSES, **facts)), 128)
        labels = [f"class {index}" for index in range(CLASSES)]
        return Classifier(module, Preprocess((128, 128), None, (0.0,) * 3, (1.0,) * 3), labels, "boxes")

    return make


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return build()


def _function() -> Classifier:
    module = pooled()

    def scores(images: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return ScoreFunction(scores, Preprocess((SIZE, SIZE), None, MEAN, STD), takes="array", name="a service")


def _onnx() -> Classifier:
    with tempfile.TemporaryDirectory() as folder:
        return load_classifier(f"onnx:{test_onnx.written(Path(folder) / 'net.onnx', ['n', 3, SIZE, SIZE])}")


def _tflite() -> Classifier:
    with tempfile.TemporaryDirectory() as folder:
        return load_classifier(f"tflite:{test_tflite.written(Path(folder) / 'net.tflite')}")


class Numbered(nn.Module):
    """A network that takes two numbers besides the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = pooled()[:-1], nn.Linear(10, 5)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        return self.head(torch.cat([self.body(image), numbers], dim=1))


class TwoHeads(nn.Module):
    """A network that answers two questions."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.color, self.shape = pooled()[:-1], nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        seen = self.body(image)
        return {"color": self.color(seen), "shape": self.shape(seen)}


def _plain(name: str, build: Callable[[], nn.Module], **facts: Any) -> Make:
    return lambda: Classifier(_seeded(build).eval(), Preprocess((SIZE, SIZE), None, MEAN, STD), name=name, **facts)


TASKS = {
    "classification": Task(
        _of_the_zoo(
            "VGG-16", "ResNet-18", "DenseNet-121", "MobileNetV3", "SqueezeNet 1.1", "EfficientNet-B0", "ConvNeXt-Tiny"
        ),
        a_class,
    ),
    "transformers": Task(
        {
            **_of_the_zoo("ViT-Tiny", "Swin-Tiny"),
            "DeiT-Tiny, distilled": _distilled,
            "ViT of transformers": _of_transformers(_vit),
        },
        a_class,
    ),
    "segmentation": Task(
        {
            "DeepLabV3": _segmenter(models.segmentation.deeplabv3_mobilenet_v3_large),
            "LR-ASPP": _segmenter(models.segmentation.lraspp_mobilenet_v3_large),
            "SegFormer of transformers": _of_transformers(test_hf.segformer),
        },
        a_region,
    ),
    "detection": Task(
        {
            "Faster R-CNN": _detector(
                models.detection.fasterrcnn_mobilenet_v3_large_320_fpn, min_size=128, max_size=128, box_score_thresh=0.0
            ),
            "SSDlite": _detector(models.detection.ssdlite320_mobilenet_v3_large, score_thresh=0.0),
            "YOLOS of transformers": _of_transformers(test_hf.yolos),
        },
        an_object,
    ),
    "other_outputs": Task(
        {
            EMBEDDING: _plain(EMBEDDING, pooled, head="score"),
            "a regression": _plain("a regression", pooled, head="score"),
            "several inputs": _plain("several inputs", Numbered, inputs={"numbers": torch.tensor([[0.3, -1.2]])}),
            "several outputs": _plain("several outputs", TwoHeads, output="shape"),
        },
        a_likeness_or_a_class,
    ),
    "black_boxes": Task(
        {"a function of pictures": _function, "an ONNX file": _onnx, "a TensorFlow Lite file": _tflite}, a_class
    ),
}


@cache
def made(task: str, network: str) -> Classifier:
    """One network of a task, made once."""
    return TASKS[task].networks[network]()


def image_for(classifier: Classifier) -> Tensor:
    """(1, 3, H, W): noise on a gray ramp, of the size that the network takes."""
    size = classifier.preprocess.size or (SIZE, SIZE)
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    return 0.7 * noise + 0.3 * torch.linspace(0, 1, size[1])
