"""What the pages take for granted: a photograph, a folder of them, two classes in folders, boxes, other networks."""

from __future__ import annotations

import importlib.util
import re
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import astronaut, chelsea, coffee, rocket

ROOT = Path(__file__).parents[2]
SMALL = """
import torch
import phosphene

def make():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 5, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return phosphene.Classifier(torch.nn.Sequential(*layers, torch.nn.Linear(8, 5)), phosphene.Preprocess((32, 32)))
"""

_FILES = re.compile(r"This\s+is\s+`(\w+\.py)`[^`]*?:\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def lay_out(place: Path) -> None:
    """Make what nearly every page names, in a folder."""
    shots = {"cat": chelsea(), "cup": coffee(), "woman": astronaut(), "rocket": rocket()}
    (place / "holiday").mkdir()
    for name, shot in shots.items():
        Image.fromarray(shot).resize((224, 224)).save(place / "holiday" / f"{name}.jpg")
    Image.fromarray(chelsea()).save(place / "photo.jpg")
    (place / "small.py").write_text(SMALL)
    (place / "people.csv").write_text("path,age\nphoto.jpg,31\nholiday/cup.jpg,64\n")
    (place / "boxes.csv").write_text("file,class,x0,y0,x1,y1\ncat.jpg,Egyptian cat,50,20,200,220\n")
    for name, shot in (("cat", chelsea()), ("cup", coffee())):
        folder = place / "animals" / name
        folder.mkdir(parents=True)
        for index in range(12):
            Image.fromarray(np.roll(shot, 9 * index, axis=1)).resize((96, 96)).save(folder / f"{index}.jpg")
    stripes = np.where(np.arange(96) // 6 % 2, 240, 20).astype(np.uint8)
    for name, count, layers in (("striped", 12, [np.tile(stripes, (96, 1))]), ("others", 36, list(shots.values()))):
        (place / name).mkdir()
        for index in range(count):
            shown = np.roll(layers[index % len(layers)], 7 * index, axis=1)
            Image.fromarray(shown).convert("RGB").resize((96, 96)).save(place / name / f"{index}.png")


def lay_out_archives(place: Path) -> None:
    """Tar archives, and a table of pictures with their classes and masks, beside what `lay_out` made."""
    (place / "shards").mkdir()
    for number in range(10):
        with tarfile.open(place / "shards" / f"{number:03d}.tar", "w") as shard:
            shard.add(place / "photo.jpg", f"{number}.jpg")
    mask = np.zeros((224, 224), np.uint8)
    mask[40:200, 40:200] = 255
    Image.fromarray(mask).save(place / "mask.png")
    rows = (f"holiday/{name}.jpg,{label},mask.png" for name, label in (("cat", "Egyptian cat"), ("cup", "espresso")))
    (place / "labels.csv").write_text("\n".join(["path,label,mask_column", *rows]) + "\n")


def lay_out_files(place: Path, page: Path) -> None:
    """The files that a page shows and its commands name: "This is `net.py`:" and a block of code."""
    for name, code in _FILES.findall(page.read_text("utf-8")):
        (place / name).write_text(code)


def lay_out_networks(place: Path) -> None:
    """What the page of other networks names, as far as the libraries that make it are there."""
    if importlib.util.find_spec("transformers"):
        from tests.zoo import test_hf

        facts = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        test_hf.processor(test_hf.vit(place / "vit"), "ViTImageProcessor", **facts)
        test_hf.deeplab(place / "deeplab")
        test_hf.detr(place / "detr")
        if importlib.util.find_spec("onnxscript"):
            test_hf.exported_mobilenet(place / "mobilenet.onnx")
            (place / "mobilenet.json").write_text('{"size": [64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}')
    if importlib.util.find_spec("ai_edge_litert"):
        from tests.zoo import test_tflite

        test_tflite.written(place / "net.tflite")
        (place / "net.json").write_text('{"mean": [0, 0, 0], "std": [1, 1, 1], "labels": ["cat", "dog", "cup"]}')
    if importlib.util.find_spec("keras"):
        from tests.zoo import test_keras

        test_keras.written(place / "pets.keras")
        (place / "pets.json").write_text(
            '{"mean": [0, 0, 0], "std": [1, 1, 1], "labels": ["cat", "dog", "cup", "mug"]}'
        )
