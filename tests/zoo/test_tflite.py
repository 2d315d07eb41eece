"""Networks in TensorFlow Lite files: the scores of the module they were made of, quantized or not, in any batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phosphene import Classifier, MissingExtraError, ModelError, Target, attribute, load_classifier
from phosphene.zoo import tflite as source
from tests.zoo.models import small

schema = pytest.importorskip(
    "ai_edge_litert.schema_py_generated", reason="LiteRT is not installed: the extra phosphene[tflite]"
)
flatbuffers = pytest.importorskip("flatbuffers", reason="flatbuffers is not installed, which writes the files")


class Written:
    """A TensorFlow Lite file in the making: tensors, their buffers, and the operations between them."""

    def __init__(self) -> None:
        self.graph, self.model = schema.SubGraphT(), schema.ModelT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []

    def tensor(self, name: str, shape: list[int], values: Any = None, kind: str = "FLOAT32", scale: Any = None) -> int:
        """The number of a new tensor: a constant where values are given; (scale, zero) of quantized ones."""
        found = schema.TensorT()
        found.name, found.type, found.buffer = name.encode(), getattr(schema.TensorType, kind), 0
        found.shape = [max(side, 1) for side in shape]
        found.shapeSignature = shape if min(shape) < 0 else None
        if scale is not None:
            found.quantization = schema.QuantizationParametersT()
            found.quantization.scale, found.quantization.zeroPoint = [scale[0]], [scale[1]]
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            found.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(found)
        return len(self.graph.tensors) - 1

    def step(self, name: str, given: list[int], gives: int, options: Any = None) -> int:
        """An operation."""
        code, step = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 1
        step.opcodeIndex, step.inputs, step.outputs = len(self.model.operatorCodes), given, [gives]
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            step.builtinOptionsType, step.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self.model.operatorCodes.append(code)
        self.graph.operators.append(step)
        return gives

    def to(self, path: Path, inputs: list[int], outputs: list[int]) -> Path:
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def written(path: Path, batch: int = 1, kind: str = "FLOAT32", scale: Any = None, outputs: int = 1) -> Path:
    """The small module of the ONNX tests, on pictures (batch, 32, 32, 3); of whole numbers read by `scale`."""
    net, file = small(), Written()
    weights, bias = net[0].weight.detach().numpy(), net[0].bias.detach().numpy()
    given = images = file.tensor("images", [batch, 32, 32, 3], kind=kind, scale=scale)
    if scale is not None:
        given = file.step(
            "DEQUANTIZE", [images], file.tensor("floats", [batch, 32, 32, 3]), schema.DequantizeOptionsT()
        )
    convolution, mean, dense = schema.Conv2DOptionsT(), schema.ReducerOptionsT(), schema.FullyConnectedOptionsT()
    convolution.strideH = convolution.strideW = 1
    convolution.fusedActivationFunction = schema.ActivationFunctionType.RELU
    constants = [
        file.tensor("w", [4, 3, 3, 3], weights.transpose(0, 2, 3, 1)),
        file.tensor("b", [4], bias),
    ]
    maps = file.step("CONV_2D", [given, *constants], file.tensor("maps", [batch, 32, 32, 4]), convolution)
    axes = file.tensor("axes", [2], np.array([1, 2], np.int32), "INT32")
    pooled = file.step("MEAN", [maps, axes], file.tensor("pooled", [batch, 4]), mean)
    head = [
        file.tensor("v", [3, 4], net[4].weight.detach().numpy()),
        file.tensor("c", [3], net[4].bias.detach().numpy()),
    ]
    logits = file.step("FULLY_CONNECTED", [pooled, *head], file.tensor("PartitionedCall:0", [batch, 3]), dense)
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    chances = file.step("SOFTMAX", [logits], file.tensor("PartitionedCall:1", [batch, 3]), options)
    found = [logits, chances][:outputs]
    if scale is not None:
        gives = file.tensor("whole", [batch, 3], kind=kind, scale=(1 / 64, 0 if kind == "INT8" else 128))
        found = [file.step("QUANTIZE", [logits], gives, schema.QuantizeOptionsT())]
    return file.to(path, [images], found)


def missing(name: str) -> object:
    raise ImportError(name)


IMAGES = (torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


@pytest.mark.filterwarnings("ignore:.*does not say how pictures are prepared")
@pytest.mark.parametrize("batch", [1, 2, -1], ids=["one at a time", "two at a time", "any"])
def test_the_scores_are_those_of_the_module(batch, tmp_path):
    path = written(tmp_path / "net.tflite", batch)
    for spec in (f"tflite:{path}", str(path)):
        found = load_classifier(spec)
        assert torch.allclose(found.logits(IMAGES), small()(IMAGES), atol=1e-5)
        assert torch.allclose(found.logits(IMAGES[:1]), small()(IMAGES[:1]), atol=1e-5)
    assert found.preprocess.size == (32, 32)
    assert found.name == "net.tflite"
    for method in ("occlusion:window=16,stride=8", "rise:masks=20"):
        ours, same = (attribute(one, IMAGES, Target.of(1), method) for one in (found, Classifier(small())))
        assert torch.allclose(ours.maps, same.maps, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*does not say how pictures are prepared")
@pytest.mark.parametrize(
    ("kind", "scale", "read"),
    [
        ("UINT8", (1 / 255, 0), lambda x: x),
        ("UINT8", (1 / 127.5, 128), lambda x: 2 * x - 128 / 127.5),
        ("INT8", (1 / 255, -128), lambda x: x),
        ("INT8", (2 / 255, -1), lambda x: 2 * x - 254 / 255),
    ],
    ids=["bytes", "bytes about the middle", "signed bytes", "signed bytes about the middle"],
)
def test_whole_numbers_are_read_and_made_as_the_file_says(kind, scale, read, tmp_path):
    found = load_classifier(f"tflite:{written(tmp_path / 'net.tflite', 1, kind, scale)}")
    expected = small()(read(IMAGES)).detach()
    assert float((found.logits(IMAGES) - expected).abs().max()) <= 0.5 / 64 + 1e-4  # (of outputs in steps of 1/64)


def test_outputs_by_name_and_the_card_beside_it(tmp_path):
    path = written(tmp_path / "net.tflite", outputs=2)
    card = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "labels": ["a", "b", "c"]}
    path.with_suffix(".json").write_text(json.dumps(card))
    expected = small()((IMAGES - 0.5) / 0.25)
    with pytest.raises(ModelError, match=r"returns several outputs .'PartitionedCall:0' .*output=0 .*SPEC@0"):
        load_classifier(str(path)).logits(IMAGES)
    names = list(load_classifier(str(path)).module(IMAGES))
    assert names == ["PartitionedCall:0", "PartitionedCall:1"]
    assert torch.allclose(load_classifier(f"{path}@0").logits(IMAGES), expected, atol=1e-5)
    likely = load_classifier(str(path), output=names[1], head="probabilities")
    assert torch.allclose(likely.logits(IMAGES).exp(), expected.softmax(1), atol=1e-5)
    assert likely.labels.find("b") == 1


@pytest.mark.filterwarnings("ignore:.*does not say how pictures are prepared")
def test_what_cannot_be_had_is_said_in_one_line(tmp_path, monkeypatch):
    path = written(tmp_path / "net.tflite")
    for method in ("saliency", "grad_cam", "lrp"):
        with pytest.raises(ModelError, match=r"net.tflite is a function of pictures, .*rise"):
            attribute(load_classifier(str(path)), IMAGES[:1], 1, method)
    with pytest.raises(ModelError, match="holds its own weights"):
        load_classifier(f"tflite:{path}", weights="random")
    with pytest.raises(ModelError, match=r"no such file; give a file of tflite: tflite:net.tflite"):
        load_classifier("tflite:nowhere.tflite")
    (tmp_path / "bad.tflite").write_bytes(b"no network")
    with pytest.raises(ModelError, match="no readable TensorFlow Lite file") as refusal:
        load_classifier(f"tflite:{tmp_path / 'bad.tflite'}")
    assert "\n" not in str(refusal.value)
    file = Written()
    one, other = (file.tensor(name, [1, 4]) for name in ("left", "right"))
    options = schema.AddOptionsT()
    sum_ = file.step("ADD", [one, other], file.tensor("sum", [1, 4]), options)
    both = file.to(tmp_path / "both.tflite", [one, other], [sum_])
    with pytest.raises(ModelError, match=r"takes left \[1, 4\], right \[1, 4\], not one batch of pictures"):
        load_classifier(f"tflite:{both}")
    monkeypatch.setattr(source, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"LiteRT is not installed; run: .*ai-edge-litert"):
        load_classifier(f"tflite:{path}")
