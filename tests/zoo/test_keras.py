"""Networks in Keras files, on PyTorch: scores, gradients and coverings are those of the model itself."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phosphene import MissingExtraError, ModelError, PhospheneWarning, attribute, load_classifier, predict
from phosphene.zoo import keras as source
from tests.cli.running import phosphene as command

if importlib.util.find_spec("keras") is None:
    pytest.skip("Keras is not installed: the extra phosphene[keras]", allow_module_level=True)

# Keras' own, of how NumPy reads its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def written(path: Path, shape: tuple[int | None, ...] = (16, 16, 3), ends: str | None = None) -> Path:
    """A small network as Keras saves it."""
    keras = source._keras()
    keras.utils.set_random_seed(0)
    given = keras.Input(shape)
    x = keras.layers.Conv2D(6, 3, activation="relu", padding="same")(given)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(given, keras.layers.Dense(4, activation=ends)(x))
    for weights in model.trainable_weights:
        weights.assign(0.4 * torch.randn(tuple(weights.shape), generator=torch.Generator().manual_seed(4)))
    model.save(path)
    return path


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:.*does not say how pictures are prepared")
def test_scores_gradients_and_coverings_are_those_of_the_model(tmp_path, images):
    classifier = load_classifier(f"keras:{written(tmp_path / 'net.keras')}")
    model = source._keras().saving.load_model(tmp_path / "net.keras")
    leaf = images.clone().requires_grad_()
    scores = model(leaf.permute(0, 2, 3, 1))
    (slope,) = torch.autograd.grad(scores[:, 2].sum(), leaf)
    assert classifier.preprocess.size == (16, 16)
    assert torch.allclose(classifier.logits(images), scores, atol=1e-5)
    found = attribute(classifier, images, 2, "saliency")
    assert torch.allclose(found.maps, slope.abs().amax(dim=1), atol=1e-5 * float(slope.abs().max()))
    covered = images.clone()
    covered[:, :, :8, :8] = 0
    expected = model(covered.permute(0, 2, 3, 1)).softmax(dim=1)[:, 2]
    found = attribute(classifier, images, 2, "occlusion:window=8,stride=8,fill=black")
    assert torch.allclose(found.maps[:, 0, 0], expected.detach(), atol=1e-5)
    for method in ("grad_cam", "cam", "attention_rollout"):
        with pytest.raises(ModelError, match=r"no layer|no class activation map|no layers of self-attention"):
            attribute(classifier, images, 2, method)


def test_the_card_says_how_it_is_fed_and_the_file_is_known_by_its_ending(tmp_path, images):
    path = written(tmp_path / "net.keras", (None, None, 3), "softmax")
    card = {"size": [16, 16], "scale": 255, "mean": [127, 127, 127], "std": [200, 200, 200]}
    (tmp_path / "net.json").write_text(json.dumps(card | {"labels": list("abcd"), "head": "probabilities"}))
    classifier = load_classifier(str(path))
    model = source._keras().saving.load_model(path)
    with torch.no_grad():
        expected = model(((images * 255 - 127) / 200).permute(0, 2, 3, 1))
    assert 0.01 < float(expected.max()) < 0.99
    assert torch.allclose(classifier.probabilities(classifier.logits(images)), expected, atol=1e-5)
    outcome = command("predict", "--model", f"keras:{path}", str(photo(tmp_path)))
    assert outcome.code == 0, outcome.err


def photo(folder: Path) -> Path:
    from PIL import Image
    from skimage.data import chelsea

    Image.fromarray(chelsea()).save(folder / "photo.jpg")
    return folder / "photo.jpg"


def test_what_is_no_network_of_pictures_is_refused(tmp_path, monkeypatch):
    keras = source._keras()
    given = keras.Input((4,))
    keras.Model(given, keras.layers.Dense(2)(given)).save(tmp_path / "numbers.keras")
    with pytest.raises(ModelError, match="not one batch of pictures"):
        load_classifier(f"keras:{tmp_path / 'numbers.keras'}")
    (tmp_path / "odd.keras").write_text("odd")
    with pytest.raises(ModelError, match="no readable Keras file"):
        load_classifier(f"keras:{tmp_path / 'odd.keras'}")
    with pytest.raises(ModelError, match="no such file"):
        load_classifier("keras:nowhere.keras")
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ModelError, match="Keras runs on jax here; set KERAS_BACKEND=torch"):
        load_classifier(f"keras:{tmp_path / 'numbers.keras'}")

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(source, "import_module", missing)
    with pytest.raises(MissingExtraError, match="keras>=3"):
        load_classifier(f"keras:{tmp_path / 'numbers.keras'}")
    assert os.environ["KERAS_BACKEND"] == "torch"


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_that_divides_bytes_by_itself_is_given_bytes(tmp_path, nested):
    keras = source._keras()
    layers = keras.layers
    scaled = [layers.Rescaling(1 / 127.5, offset=-1)]
    body = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    first = [keras.Sequential([keras.Input((16, 16, 3)), *scaled])] if nested else scaled
    model = keras.Sequential([keras.Input((16, 16, 3)), *first, *body])
    model.save(tmp_path / "net.keras")
    with pytest.warns(PhospheneWarning, match=r"sees them in \[0, 255\] at 16 x 16 pixels"):
        found = load_classifier(f"keras:{tmp_path / 'net.keras'}")
    array = (np.random.default_rng(0).random((16, 16, 3)) * 255).astype(np.uint8)
    expected = model(torch.from_numpy(array[None]).float()).softmax(1)[0]
    told = {one.index: one.probability for one in predict(found, array, count=3)[0]}
    assert torch.allclose(torch.tensor([told[index] for index in range(3)]), expected.cpu().detach(), atol=1e-5)


def test_a_file_that_does_not_divide_is_given_what_it_was(tmp_path):
    with pytest.warns(PhospheneWarning, match=r"sees them in \[0, 1\] at 16 x 16 pixels"):
        load_classifier(f"keras:{written(tmp_path / 'net.keras')}")


def test_what_augments_pictures_or_computes_before_the_first_scaling_is_looked_past_or_believed(tmp_path):
    keras = source._keras()
    layers = keras.layers

    def white(*first: Any) -> float:
        given = keras.Input((16, 16, 3))
        found = given
        for step in (*first, layers.Rescaling(1 / 255), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()):
            found = step(found)
        keras.Model(given, layers.Dense(3)(found)).save(tmp_path / "net.keras")
        with pytest.warns(PhospheneWarning):
            return load_classifier(f"keras:{tmp_path / 'net.keras'}").preprocess.scale

    assert white(keras.Sequential([keras.Input((16, 16, 3)), layers.RandomFlip()]), layers.RandomRotation(0.1)) == 255
    assert white(lambda images: images * 255.0) == 1
    assert white(layers.Normalization(mean=[0.0] * 3, variance=[1 / 255**2] * 3)) == 1
