"""The papers' networks: what their layers compute, and weights in the files in which they were published."""

from __future__ import annotations

import struct
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat

from phosphene.errors import ModelError, NotFoundError
from phosphene.runtime import forward
from phosphene.targets import Target
from phosphene.tasks.attributions import attribute
from phosphene.zoo import load_classifier, papers
from phosphene.zoo.caffe import read_caffemodel, read_mean
from phosphene.zoo.matconvnet import read_matconvnet

HIDDEN = 8


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Hidden layers of 8 instead of 4096: the files hold megabytes, not hundreds."""
    monkeypatch.setattr(papers, "NarrowAlexNet", partial(papers.NarrowAlexNet, hidden=HIDDEN))


def network(classes: int = 1000, padding: int = 0):
    torch.manual_seed(3)
    made = papers.NarrowAlexNet(padding, classes).eval()
    with torch.no_grad():
        made.features.conv1.weight.mul_(0.02)  # bytes go in
    return made


def layers_of(made):
    """(name, weight, bias) of the layers with weights, fully connected ones as (K, C, h, w)."""
    shapes = {"fc6": (HIDDEN, 256, 6, 6), "fc7": (HIDDEN, HIDDEN, 1, 1)}
    for room in (made.features, made.classifier):
        for name, module in room.named_children():
            if hasattr(module, "weight"):
                weight = module.weight.detach()
                weight = weight.reshape(shapes.get(name, (len(weight), -1, 1, 1))) if weight.ndim == 2 else weight
                yield name, weight.numpy(), module.bias.detach().numpy()


def message(number: int, content: bytes) -> bytes:
    return whole(number << 3 | 2) + whole(len(content)) + content


def whole(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 127
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


def blob(values: np.ndarray, *, old: bool) -> bytes:
    data = message(5, np.ascontiguousarray(values, "<f4").tobytes())
    if old:
        shape = (1,) * (4 - values.ndim) + values.shape
        return b"".join(whole(field << 3) + whole(size) for field, size in enumerate(shape, 1)) + data
    return message(7, message(1, b"".join(map(whole, values.shape)))) + data


def caffemodel(made, *, old: bool) -> bytes:
    layer, name_field, blob_field = (2, 4, 6) if old else (100, 1, 7)
    written = message(1, b"CNN-F") + message(layer, message(name_field, b"relu1"))
    for name, weight, bias in layers_of(made):
        matrix = weight.reshape(len(weight), -1) if name.startswith("fc") else weight
        blobs = [message(blob_field, blob(values, old=old)) for values in (matrix, bias)]
        written += message(layer, message(name_field, name.encode()) + b"".join(blobs))
    return written


def test_response_normalization_is_krizhevskys():
    values = torch.randn(1, 12, 2, 2)
    found = network().features.norm1(values)
    for channel in range(12):
        near = values[0, max(0, channel - 2) : channel + 3]
        expected = values[0, channel] / (2 + 1e-4 * near.square().sum(dim=0)) ** 0.75
        torch.testing.assert_close(found[0, channel], expected)


def test_the_layers_are_those_of_the_papers():
    for padding, side in ((0, 54), (2, 55)):
        values, shapes = torch.zeros(1, 3, 224, 224), {}
        for name, module in network(padding=padding).features.named_children():
            values = module(values)
            shapes[name] = tuple(values.shape[1:])
        assert shapes["conv1"] == (64, side, side)
        assert [shapes[name] for name in ("pool1", "pool2", "pool5")] == [(64, 27, 27), (256, 13, 13), (256, 6, 6)]
    assert papers.NarrowAlexNet.func(0).classifier.fc6.out_features == 4096


@pytest.mark.parametrize("old", [True, False])
def test_a_caffemodel_is_fed_with_bgr_bytes(tmp_path, old):
    made, images = network(), torch.rand(2, 3, 224, 224)
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(made, old=old))
    found = load_classifier("papers:cnn_f", weights=tmp_path / "net.caffemodel")
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    torch.testing.assert_close(found.logits(images), made(255 * images.flip(1) - mean))
    assert found.labels.find("tabby") == 281
    picture = np.random.default_rng(0).uniform(90, 140, (3, 256, 256)).astype(np.float32)
    (tmp_path / "net.binaryproto").write_bytes(blob(picture, old=True))
    torch.testing.assert_close(read_mean(tmp_path / "net.binaryproto"), torch.from_numpy(picture))
    assert load_classifier("papers:cnn_f", weights=tmp_path / "net.caffemodel").preprocess.mean_picture is not None


@pytest.mark.parametrize("old", [True, False])
def test_a_file_of_matconvnet_brings_its_mean_picture(tmp_path, old):
    made, images = network(), torch.rand(2, 3, 224, 224)
    mean = np.random.default_rng(0).uniform(90, 140, (224, 224, 3)).astype(np.float32)
    chain = []
    for name, weight, bias in layers_of(made):
        arrays = [weight.transpose(2, 3, 1, 0), bias]
        own = {"filters": arrays[0], "biases": arrays[1]} if old else {"weights": np.array([*arrays, None], object)[:2]}
        chain += [{"type": "conv", "name": name, **own}, {"type": "relu", "name": f"relu-{name}"}]
    facts = {"normalization": {"averageImage": mean, "imageSize": [224, 224, 3]}}
    savemat(tmp_path / "net.mat", {"layers": np.array(chain, object), **(facts if old else {"meta": facts})})
    found = load_classifier("papers:cnn_f", weights=tmp_path / "net.mat")
    expected = made(255 * images - torch.from_numpy(mean).permute(2, 0, 1))
    torch.testing.assert_close(found.logits(images), expected)


def test_own_weights_of_other_classes_and_none(tmp_path):
    made = network(classes=4, padding=2)
    save_file(made.state_dict(), tmp_path / "mine.safetensors")
    found = load_classifier("papers:conv64_256x4", weights=tmp_path / "mine.safetensors")
    assert found.logits(torch.rand(1, 3, 224, 224)).shape == (1, 4)
    assert not found.labels
    assert len(load_classifier("papers:cnn_f", weights="random").labels) == 1000
    with pytest.raises(ModelError, match="comes without weights"):
        load_classifier("papers:cnn_f")
    with pytest.raises(NotFoundError, match="did you mean 'cnn_f'"):
        load_classifier("papers:cnn-f", weights="random")


def test_damaged_files_are_refused_in_one_line(tmp_path):
    content = caffemodel(network(classes=2), old=False)
    (tmp_path / "net.caffemodel").write_bytes(content[: len(content) // 2])
    (tmp_path / "net.mat").write_bytes(b"no MATLAB file at all" * 20)
    savemat(tmp_path / "other.mat", {"x": np.ones(3)})
    for read, name, text in (
        (read_caffemodel, "net.caffemodel", "damaged or no caffemodel"),
        (read_caffemodel, "none.caffemodel", "cannot be read"),
        (read_matconvnet, "net.mat", "damaged or no MATLAB file"),
        (read_matconvnet, "other.mat", "no network of MatConvNet"),
        (read_matconvnet, "none.mat", "no such file"),
    ):
        with pytest.raises(ModelError, match=text):
            read(tmp_path / name)
    (tmp_path / "few.caffemodel").write_bytes(message(100, message(1, b"conv1") + 2 * message(7, struct.pack("<x"))))
    with pytest.raises(ModelError):
        load_classifier("papers:cnn_f", weights=tmp_path / "few.caffemodel")


def test_methods_read_response_normalization():
    found, images = load_classifier("papers:cnn_f", weights="random"), torch.rand(1, 3, 224, 224)
    for method in ("saliency", "deconvnet", "guided_backprop", "grad_cam"):
        assert bool(attribute(found, images, Target.of(3), method).maps.any()), method
    occluded = attribute(found, images, Target.of(3), "occlusion:window=64,stride=96")
    covered = images.clone()
    covered[..., :64, 96:160] = found.mean_image
    torch.testing.assert_close(occluded.maps[0, 0, 1], forward(found, covered).softmax(dim=1)[0, 3])
