"""Networks of timm and torchvision as published: preprocessing, labels, local weights, failed downloads."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.data import chelsea
from torchvision import models

from phosphene.errors import ModelError, NotFoundError
from phosphene.images import as_pictures
from phosphene.runtime import forward
from phosphene.zoo import load_classifier

PICTURE = Image.fromarray(chelsea())


def seen(classifier) -> torch.Tensor:
    """(3, H, W): the picture as the network gets it."""
    pictures = as_pictures(PICTURE)
    return classifier.preprocess.normalize(classifier.preprocessed(pictures, classifier.views(pictures)))[0]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "efficientnet_b0", "swin_v2_t", "squeezenet1_1"])
def test_torchvision_preprocessing_is_the_published_one(name):
    classifier = load_classifier(f"torchvision:{name}", weights="random")
    published = models.get_model_weights(name).DEFAULT.transforms()(PICTURE)
    assert torch.allclose(seen(classifier), published, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100", "resnet10t.c3_in1k"])
def test_timm_preprocessing_is_the_published_one(name):
    classifier = load_classifier(f"timm:{name}", weights="random")
    facts = timm.data.resolve_model_data_config(classifier.module)
    published = timm.data.create_transform(**facts, is_training=False)(PICTURE)
    assert torch.allclose(seen(classifier), published, atol=1e-4)


def test_labels_have_names_identifiers_and_synonyms():
    for spec in ("torchvision:resnet18", "timm:resnet18"):
        labels = load_classifier(spec, weights="random").labels
        assert len(labels) == 1000
        assert labels.find("tabby") == labels.find("n02123045") == 281
        assert labels.find("goldfish") == labels.find("Carassius auratus") == 1
    large = load_classifier("timm:vit_tiny_patch16_224.augreg_in21k", weights="random")
    assert len(large.labels) == large.module.num_classes == 21843
    assert large.labels[large.labels.ids.index("n02123045")] == "tabby"


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("classes", [1000, 4])
def test_a_local_weights_file(tmp_path, spec, suffix, classes):
    build = timm.create_model if spec.startswith("timm") else models.get_model
    network = build("resnet18", num_classes=classes).eval()
    path = tmp_path / f"own.{suffix}"
    if suffix == "pth":
        torch.save({"model": {f"module.{key}": value for key, value in network.state_dict().items()}}, path)
    else:
        save_file(network.state_dict(), path)
    classifier = load_classifier(spec, weights=path)
    images = torch.rand(1, 3, 64, 64)
    expected = network(classifier.preprocess.normalize(images))
    assert torch.allclose(forward(classifier, images), expected, rtol=1e-4, atol=1e-4)
    assert len(classifier.labels) == (1000 if classes == 1000 else 0)


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18"])
def test_weights_of_another_network_are_refused(tmp_path, spec):
    path = tmp_path / "resnet34.pth"
    torch.save(models.resnet34().state_dict(), path)
    with pytest.raises(ModelError, match="that the network does not have"):
        load_classifier(spec, weights=path)


def test_a_failed_download_offers_a_local_file(monkeypatch):
    def fail(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    monkeypatch.setattr(timm, "create_model", fail)
    for spec in ("torchvision:resnet18", "timm:resnet18"):
        with pytest.raises(ModelError, match=r"cannot be had \(<urlopen error Name .*--weights FILE") as caught:
            load_classifier(spec)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet81", "timm has no model 'resnet81'; did you mean 'resnet18'"),
        ("timm:", "name a model"),
        ("torchvision:resnet81", "torchvision has no classifier 'resnet81'; did you mean 'resnet18'"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no classifier"),
        ("torchvision:resnet50:IMAGENET1K_V3", "has no weights 'IMAGENET1K_V3'; did you mean"),
    ],
)
def test_an_unknown_name_is_suggested(spec, message):
    with pytest.raises(NotFoundError, match=message):
        load_classifier(spec)


def test_a_network_of_features_alone_is_refused():
    with pytest.raises(ModelError, match="has no classes: it makes features"):
        load_classifier("timm:vit_small_patch14_dinov2.lvd142m", weights="random")


def test_an_unknown_tag_is_refused():
    with pytest.raises(ModelError, match="no_such_tag"):
        load_classifier("timm:resnet18.no_such_tag")


def test_two_recipes_of_one_network():
    first, second = (load_classifier(f"torchvision:resnet50:IMAGENET1K_V{n}", weights="random") for n in (1, 2))
    assert first.preprocess.short_side == 256
    assert second.preprocess.short_side == 232
    assert first.name == "torchvision:resnet50:IMAGENET1K_V1"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_local_weights_of_the_inceptions_give_what_the_published_ones_give(tmp_path, name):
    """As published: the input transformed, side branches in the file (googlenet drops them after loading)."""
    published = models.get_model(name, weights=None, init_weights=False, transform_input=True, aux_logits=True).eval()
    save_file(published.state_dict(), tmp_path / "mine.safetensors")
    found = load_classifier(f"torchvision:{name}", weights=tmp_path / "mine.safetensors")
    assert found.module.transform_input
    images = torch.rand(2, 3, 299, 299)
    with torch.no_grad():
        assert torch.allclose(found.logits(images), published(found.preprocess.normalize(images)), atol=1e-4)
    tuned = {key: value for key, value in published.state_dict().items() if not key.startswith(("aux", "AuxLogits"))}
    save_file(tuned, tmp_path / "without.safetensors")
    again = load_classifier(f"torchvision:{name}", weights=tmp_path / "without.safetensors")
    assert torch.allclose(again.logits(images), found.logits(images), atol=1e-4)
