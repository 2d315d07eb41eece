"""Classifiers of transformers, from folders that transformers itself saved; no network, no published weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea

from phosphene import Detected, ModelError, NotFoundError, Region, attribute, explain, load_classifier
from phosphene.errors import PhospheneWarning
from tests.cli.running import phosphene as command

transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra phosphene[hf]")
LABELS = {0: "tabby cat", 1: "wolf", 2: "coffee cup"}


def vit(folder: Path, **facts: object) -> Path:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48,
        id2label=LABELS, label2id={name: index for index, name in LABELS.items()}, initializer_range=0.3, **facts,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


def resnet(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    return folder


def processor(folder: Path, kind: str, **facts: object) -> Path:
    """What the library's own processors write."""
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": kind, "do_normalize": True, "do_rescale": True, "do_resize": True,
                    "rescale_factor": 1 / 255, **facts})
    )  # fmt: skip
    return folder


MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
PROCESSORS = {
    "squashed": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 2}),
    "middle": (
        "CLIPImageProcessor",
        {
            "size": {"shortest_edge": 40},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
            "resample": 3,
        },
    ),
    "part": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.875, "resample": 3}),
    "divided twice": (
        "EfficientNetImageProcessor",
        {"size": {"height": 32, "width": 32}, "include_top": True, "rescale_offset": False, "resample": 2},
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_are_prepared_as_its_processor_does(name, tmp_path):
    kind, facts = PROCESSORS[name]
    processor(vit(tmp_path), kind, image_mean=MEAN, image_std=STD, **facts)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PhospheneWarning)
        classifier = load_classifier(f"hf:{tmp_path}")
    picture = Image.fromarray(chelsea())
    ours = classifier.preprocess.normalize(classifier.preprocessed([picture], classifier.views([picture])))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="np")["pixel_values"]
    scale = 1 / min(classifier.preprocess.std)
    assert float((ours - torch.as_tensor(np.array(theirs))).abs().max()) < 0.02 * scale
    network = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = network(torch.as_tensor(np.array(theirs))).logits
    assert torch.allclose(
        classifier.logits(classifier.preprocessed([picture], classifier.views([picture]))), expected, atol=0.1
    )
    assert classifier.labels.find("wolf") == 1
    assert classifier.name == f"hf:{tmp_path}"


def test_what_cannot_be_said_is_said_aloud(tmp_path):
    facts = {"size": {"height": 40, "width": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    processor(vit(tmp_path), "CLIPImageProcessor", image_mean=MEAN, image_std=STD, resample=3, **facts)
    with pytest.warns(PhospheneWarning, match="its processor makes \\(3, 32, 32\\) of a picture in a way"):
        load_classifier(f"hf:{tmp_path}")


def test_without_a_processor_nothing_is_made_up(tmp_path):
    with pytest.warns(UserWarning, match="does not say how pictures are prepared"):
        classifier = load_classifier(f"hf:{resnet(tmp_path)}")
    assert classifier.preprocess.size is None
    assert not classifier.labels


@pytest.mark.parametrize(
    "method", ["grad_cam", "saliency", "attention_rollout", "attention_relevance", "attn_lrp", "lrp"]
)
def test_methods_on_both_kinds(method, tmp_path):
    images = torch.rand(2, 3, 32, 32)
    facts = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": MEAN, "image_std": STD}
    for build in (vit, resnet):
        folder = tmp_path / build.__name__
        classifier = load_classifier(f"hf:{processor(build(folder), 'ViTImageProcessor', **facts)}")
        fits = {"lrp": build is resnet, "attention_rollout": build is vit, "attention_relevance": build is vit}
        if fits.get(method, True):
            found = attribute(classifier, images, 1, method)
            assert bool(found.maps.any())
            assert all(problem is None for problem in found.problems)
        else:
            with pytest.raises(ModelError, match=r"no relevance rule|no layers of self-attention"):
                attribute(classifier, images, 1, method)


def test_attention_is_what_transformers_returns(tmp_path):
    facts = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": MEAN, "image_std": STD}
    classifier = load_classifier(f"hf:{processor(vit(tmp_path), 'ViTImageProcessor', **facts)}")
    images = torch.rand(1, 3, 32, 32)
    eager = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        layers = eager(classifier.preprocess.normalize(images), output_attentions=True).attentions
    rolled = torch.eye(17)
    for layer in layers:
        rolled = (0.5 * layer[0].mean(0) + 0.5 * torch.eye(17)) @ rolled
    found = attribute(classifier, images, 1, "attention_rollout")
    assert torch.allclose(found.maps[0].flatten(), rolled[0, 1:], atol=1e-6)


def test_heads_and_what_is_refused(tmp_path):
    facts = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": MEAN, "image_std": STD}
    many = processor(vit(tmp_path / "many", problem_type="multi_label_classification"), "ViTImageProcessor", **facts)
    assert load_classifier(f"hf:{many}").head == "sigmoid"
    untrained = load_classifier(f"hf:{many}", weights="random")
    assert not torch.equal(untrained.module.classifier.weight, load_classifier(f"hf:{many}").module.classifier.weight)
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=48
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match=r"lacks 2 weights of its head \(classifier.bias"):
        load_classifier(f"hf:{tmp_path / 'headless'}")
    with pytest.raises(ModelError, match=r"holds no config.json"):
        load_classifier(f"hf:{tmp_path}")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="cannot be loaded for classification, segmentation or detection"):
        load_classifier(f"hf:{tmp_path / 'odd'}")
    with pytest.raises(NotFoundError, match="hf: name a model"):
        load_classifier("hf:")


def test_the_command_explains_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": MEAN, "image_std": STD}
    processor(vit(tmp_path / "net"), "ViTImageProcessor", **facts)
    Image.fromarray(chelsea()).save("photo.jpg")
    outcome = command(
        "explain", "photo.jpg", "--model", "hf:net", "--class", "wolf", "--method", "grad_cam", "--out", "run"
    )
    assert outcome.code == 0, outcome.err
    assert "grad_cam for wolf" in outcome.out
    assert explain("hf:net", "photo.jpg", "saliency").maps.shape == (1, 32, 32)


WHOLE = {"size": {"height": 64, "width": 64}, "resample": 2, "image_mean": MEAN, "image_std": STD}
NAMED = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}


def segformer(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        **NAMED,
    )  # fmt: skip
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return processor(folder, "ViTImageProcessor", **WHOLE)


def yolos(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        image_size=[64, 64], patch_size=16, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=48, num_detection_tokens=5, **NAMED,
    )  # fmt: skip
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    return processor(folder, "ViTImageProcessor", **WHOLE)


MOBILE = {"image_size": 64, "depth_multiplier": 0.25, "min_depth": 8, "classifier_dropout_prob": 0.0}


def deeplab(folder: Path) -> Path:
    """DeepLabV3+ on MobileNetV2."""
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(**MOBILE, **NAMED)
    transformers.MobileNetV2ForSemanticSegmentation(config).save_pretrained(folder)
    return processor(folder, "ViTImageProcessor", **WHOLE)


def detr(folder: Path) -> Path:
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=6, init_std=0.3, **NAMED,
    )  # fmt: skip
    transformers.DetrForObjectDetection(config).save_pretrained(folder)
    return processor(folder, "ViTImageProcessor", **WHOLE)


def exported_mobilenet(path: Path) -> Path:
    """MobileNetV2 as PyTorch exports it."""
    torch.manual_seed(0)
    network = transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(**MOBILE, **NAMED)).eval()
    network.config.return_dict = False
    for weights in network.parameters():
        if weights.ndim > 1:
            torch.nn.init.kaiming_normal_(weights)  # as they are drawn by themselves nothing comes through
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        images, dynamic = torch.rand(2, 3, 64, 64), ({0: torch.export.Dim.DYNAMIC},)
        torch.onnx.export(network, (images,), path, dynamo=True, dynamic_shapes=dynamic, external_data=False)
    return path


@pytest.mark.parametrize(("maps", "boxes"), [(segformer, yolos), (deeplab, detr)], ids=["segformer", "deeplab"])
def test_segmentation_and_detection_by_their_configuration(maps, boxes, tmp_path):
    maps(tmp_path / "maps")
    boxes(tmp_path / "boxes")
    images = torch.rand(1, 3, 64, 64)
    segmenter, detector = (load_classifier(f"hf:{tmp_path / name}") for name in ("maps", "boxes"))
    assert (segmenter.head, detector.head) == ("maps", "boxes")
    for method in ("grad_cam", "saliency", "occlusion"):
        found = attribute(segmenter, images, Region(1, (8, 8, 40, 40)), method)
        assert bool(found.heat.any())
    with torch.no_grad():
        raw = detector.module(detector.preprocess.normalize(images))
    middle, sides = raw["pred_boxes"][0, 0].split(2)
    box = tuple(round(float(value), 2) for value in torch.cat([middle - sides / 2, middle + sides / 2]) * 64)
    found = attribute(detector, images, Detected(1, box), "saliency")
    assert float(found.score) > 0
    assert bool(found.maps.any())
    best = detector.logits(images)[0]
    assert torch.allclose(best, raw["logits"][0].softmax(-1)[:, :-1].amax(dim=0), atol=1e-5)
