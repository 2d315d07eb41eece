"""Networks in ONNX files: the same scores as the module they were made of, and one line where a layer is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea

from phosphene import Classifier, MissingExtraError, ModelError, Target, attribute, load_classifier
from phosphene.zoo import onnx as source
from tests.cli.running import phosphene as command
from tests.zoo.models import small

onnx = pytest.importorskip("onnx", reason="onnx is not installed, which writes the files")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra phosphene[onnx]")


def written(path: Path, shape: list[object], *, last: bool = False, kind: int = 1, outputs: int = 1) -> Path:
    """The module as an ONNX file with an input of a shape, channels first or last, floats or (2) whole numbers."""
    net, helper = small(), onnx.helper
    state = {"w": net[0].weight, "b": net[0].bias, "v": net[4].weight, "c": net[4].bias}
    tensors = [onnx.numpy_helper.from_array(value.detach().numpy(), name) for name, value in state.items()]
    given, nodes = "images", []
    if kind == 2:
        nodes += [helper.make_node("Cast", [given], ["float"], to=1)]
        tensors += [onnx.numpy_helper.from_array(np.float32(255), "full")]
        nodes += [helper.make_node("Div", ["float", "full"], ["unit"])]
        given = "unit"
    if last:
        nodes += [helper.make_node("Transpose", [given], ["first"], perm=[0, 3, 1, 2])]
        given = "first"
    nodes += [
        helper.make_node("Conv", [given, "w", "b"], ["x1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("GlobalAveragePool", ["x2"], ["x3"]),
        helper.make_node("Flatten", ["x3"], ["x4"]),
        helper.make_node("Gemm", ["x4", "v", "c"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["chances"]),
    ]
    count = shape[0]
    named = [helper.make_tensor_value_info(name, 1, [count, 3]) for name in ("logits", "chances")[:outputs]]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("images", kind, shape)], named, initializer=tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.filterwarnings("ignore:.*does not say how pictures are prepared")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (["n", 3, 16, 16], {}),
        (["n", 16, 16, 3], {"last": True}),
        ([1, 3, 16, 16], {}),
        ([4, 3, "h", "w"], {}),
        (["n", 16, 16, 3], {"last": True, "kind": 2}),
        (["n", 3, 16, 16], {"kind": 2}),
    ],
    ids=["first", "last", "one at a time", "four at a time", "whole numbers", "whole numbers first"],
)
def test_the_scores_are_those_of_the_module(shape, options, tmp_path):
    images = (torch.rand(3, 3, 16, 16) * 255).round() / 255
    found = load_classifier(f"onnx:{written(tmp_path / 'net.onnx', shape, **options)}")
    assert torch.allclose(found.logits(images), small()(images), atol=1e-5)
    assert found.preprocess.size == (None if shape[-1] == "w" else (16, 16))
    assert found.name == "net.onnx"
    for method in ("occlusion:window=6,stride=4", "rise:masks=20"):
        ours = attribute(found, images, Target.of(1), method)
        same = attribute(Classifier(small()), images, Target.of(1), method)
        assert torch.allclose(ours.maps, same.maps, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*does not say how pictures are prepared")
def test_outputs_by_name_and_the_card_beside_it(tmp_path):
    path = written(tmp_path / "net.onnx", ["n", 3, 16, 16], outputs=2)
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(load_classifier(str(path)).logits(images), small()(images), atol=1e-5)
    likely = load_classifier(f"onnx:{path}", output="chances", head="probabilities")
    assert torch.allclose(likely.logits(images).exp(), small()(images).softmax(1), atol=1e-5)
    path.with_suffix(".json").write_text(
        json.dumps({"size": [16, 16], "mean": [0.5] * 3, "std": [0.25] * 3, "labels": ["a", "b", "c"]})
    )
    told = load_classifier(f"onnx:{path}")
    assert told.labels.find("b") == 1
    assert torch.allclose(told.logits(images), small()((images - 0.5) / 0.25), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*does not say how pictures are prepared")
def test_what_cannot_be_had_is_said_in_one_line(tmp_path, monkeypatch):
    path = written(tmp_path / "net.onnx", ["n", 3, 16, 16])
    classifier, images = load_classifier(f"onnx:{path}"), torch.rand(1, 3, 16, 16)
    for method in (
        "saliency",
        "grad_cam",
        "cam",
        "lrp",
        "guided_backprop",
        "integrated_gradients",
        "attention_rollout",
    ):
        with pytest.raises(ModelError, match="a function of pictures") as refusal:
            attribute(classifier, images, 1, method)
        assert "rise" in str(refusal.value)
    with pytest.raises(ModelError, match="holds its own weights"):
        load_classifier(f"onnx:{path}", weights="random")
    with pytest.raises(ModelError, match="no such file"):
        load_classifier("onnx:nowhere.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match="no readable ONNX file"):
        load_classifier(f"onnx:{tmp_path / 'bad.onnx'}")
    monkeypatch.setattr(source, "import_module", _missing)
    with pytest.raises(MissingExtraError, match="onnxruntime is not installed; run: "):
        load_classifier(f"onnx:{path}")


def _missing(name: str) -> object:
    raise ImportError(name)


def test_the_command_explains_locates_and_measures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "net.onnx", ["n", 3, 16, 16])
    (tmp_path / "net.json").write_text(json.dumps({"size": [16, 16], "labels": ["cat", "dog", "cup"]}))
    Path("pictures").mkdir()
    Image.fromarray(chelsea()).save("pictures/photo.jpg")
    common = ["--model", "onnx:net.onnx"]
    occlusion = ["--method", "occlusion:window=6,stride=4"]
    for arguments in (
        ["explain", "pictures/photo.jpg", "--class", "dog", *occlusion, "--out", "one"],
        ["locate", "pictures/photo.jpg", "--class", "dog", *occlusion, "--out", "two"],
        ["evaluate", "faithfulness", "--images", "pictures", *occlusion, "--out", "three"],
    ):
        outcome = command(*arguments, *common)
        assert outcome.code == 0, outcome.err
    refused = command("explain", "pictures/photo.jpg", "--method", "grad_cam", "--out", "four", *common)
    assert refused.code == 2
    assert "net.onnx is a function of pictures, which has no layers" in refused.out + refused.err
