"""Networks of transformers with the processor and the labels published with them: "hf:NAME" or "hf:FOLDER"."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from phosphene.classifier import Classifier, HeadKind, Preprocess
from phosphene.errors import ModelError, NotFoundError, to_install, warn
from phosphene.images import Interpolation
from phosphene.types import Size
from phosphene.zoo.card import Unstated
from phosphene.zoo.source import model_source
from phosphene.zoo.weights import Weights, first_line, is_local, load_weights, no_download

_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# What the name of an architecture ends in: the library's class for it, and how its scores are read.
_KINDS: dict[str, tuple[str, HeadKind]] = {
    "ForSemanticSegmentation": ("AutoModelForSemanticSegmentation", "maps"),
    "ForObjectDetection": ("AutoModelForObjectDetection", "boxes"),
}
# Pictures of the processor and ours may differ so much on average, in units of what the network sees: other rounding.
_SAME = 0.03


@model_source("hf", "hf:NAME", "hf:FOLDER")
def load(name: str, weights: Weights = None) -> Classifier:
    """A network of transformers from a folder made by `save_pretrained`, or by its name on the hub.

    An image classifier, or as its configuration says a network for semantic segmentation (head "maps") or object
    detection (head "boxes").

    Pictures are resized, cut and normalized as its processor says; whether that is what the processor does is tried
    out, and said where it is not. Labels and the kind of the head are those of its configuration. Code of the
    repository's own is not run.

    Args:
        name: a folder, which needs no network, or a name on the hub, which is downloaded unless it is in the cache.
        weights: a .safetensors or .pt file; "random" for an untrained network of that configuration.

    Raises:
        MissingExtraError: if transformers is not installed.
        NotFoundError: if no name is given.
        ModelError: if it is none of these, lacks weights of its head, or cannot be downloaded.
    """
    if not name:
        raise NotFoundError("hf: name a model or a folder, such as hf:google/vit-base-patch16-224")
    if name.startswith((".", "/", "~")) or Path(name).is_dir():
        place = Path(name).expanduser()
        if not (place / "config.json").is_file():
            raise ModelError(f"{name}: holds no config.json; give a folder that save_pretrained made, or a hub name")
        name = str(place)
    transformers = _transformers()
    with _quiet(transformers):
        network = _network(transformers, name, weights)
        config: Any = network.config
        processor = _processor(transformers, name)
    spec, labels = f"hf:{name}", _labels(config)
    if labels is None and _head(config) == "boxes":  # (their number says whether the scores have one of no object)
        labels = tuple(f"LABEL_{index}" for index in range(config.num_labels))
    preprocess = _preprocess(_facts(transformers, name, processor), int(getattr(config, "num_channels", 3)), spec)
    if processor is not None:
        _compare(processor, preprocess, spec)
    return Classifier(network.eval(), preprocess, labels, _head(config), name=spec)


def _transformers() -> Any:
    try:
        return import_module("transformers")
    except ImportError:
        raise to_install("transformers is not installed", "transformers>=4.45") from None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No bars and no notices of the library's own, whose settings stay what they were."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _network(transformers: Any, name: str, weights: Weights) -> nn.Module:
    try:
        kind = getattr(transformers, _kind(transformers.AutoConfig.from_pretrained(name))[0])
        if weights is None:
            network, info = kind.from_pretrained(name, output_loading_info=True)
        else:
            network, info = kind.from_config(transformers.AutoConfig.from_pretrained(name)), {}
    except Exception as error:  # the hub's client and the library raise what their versions raise
        if Path(name).is_dir():
            raise ModelError(
                f"hf:{name} cannot be loaded for classification, segmentation or detection ({first_line(error)})"
            ) from error
        raise no_download(f"hf:{name}", error) from error
    lacking = sorted(info.get("missing_keys", ()))
    if lacking:  # the library fills them with random numbers
        raise ModelError(
            f"hf:{name} lacks {len(lacking)} weights of its head ({', '.join(lacking[:3])}): it was "
            "trained for something else; choose a classifier, or train a head with phosphene head"
        )
    if is_local(weights):
        load_weights(network, weights)
    return network  # type: ignore[no-any-return]


def _processor(transformers: Any, name: str) -> Any:
    """The image processor, or None where it cannot be made here (it may need torchvision)."""
    try:
        return transformers.AutoImageProcessor.from_pretrained(name)
    except Exception:  # whatever is missing: its settings are read without it
        return None


def _facts(transformers: Any, name: str, processor: Any) -> Mapping[str, Any]:
    """The processor's settings; none where there is no processor."""
    if processor is not None:
        facts = dict(processor.to_dict())
        # (What is None there is left out of them.)
        return facts | {"do_normalize": bool(getattr(processor, "do_normalize", "image_mean" in facts))}
    base = import_module("transformers.image_processing_base").ImageProcessingMixin
    try:
        return dict(base.get_image_processor_dict(name)[0])
    except Exception:  # as above
        return {}


def _preprocess(facts: Mapping[str, Any], channels: int, spec: str) -> Preprocess:
    if not facts:
        return Unstated(None, None, (0.0,) * channels, (1.0,) * channels)
    if facts.get("do_rescale", True) and abs(facts.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise ModelError(f"{spec}: its processor scales pixels by {facts['rescale_factor']}; pass preprocess=")
    mean, std = (0.0,) * channels, (1.0,) * channels
    if facts.get("do_normalize", "image_mean" in facts):
        mean, std = _each(facts.get("image_mean", 0.5), channels), _each(facts.get("image_std", 0.5), channels)
    if facts.get("include_top"):  # (EfficientNet's divides once more)
        std = tuple(value * value for value in std)
    if facts.get("rescale_offset"):
        mean = tuple(value + 1 for value in mean)
    size, short_side = _geometry(facts)
    interpolation = _FILTERS.get(int(facts.get("resample", 2)), "bicubic")
    flipped = bool(facts.get("do_flip_channel_order")) and channels == 3
    return Preprocess(size, short_side, mean, std, interpolation, order="BGR" if flipped else "RGB")


def _each(value: Any, channels: int) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * channels if len(values) == 1 else values


def _geometry(facts: Mapping[str, Any]) -> tuple[Size | None, int | None]:
    """((height, width) that the network sees, what the short side is resized to before the centre is cut out)."""
    crop = _sides(facts.get("crop_size")) if facts.get("do_center_crop") else None
    if not facts.get("do_resize", True):
        return crop, None
    size = facts.get("size") or {}
    short_side = size if isinstance(size, int) else size.get("shortest_edge")
    if short_side is None:
        whole = _sides(size)
        return (crop, min(whole)) if crop and whole and crop != whole else (whole, None)
    if "crop_pct" in facts:  # ConvNext's: below 384 a part of a larger picture, above the whole squashed
        share = facts["crop_pct"]
        return (short_side, short_side), int(short_side / share) if short_side < 384 else None
    return crop or (short_side, short_side), int(short_side)


def _sides(size: Any) -> Size | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    return None


def _compare(processor: Any, preprocess: Preprocess, spec: str) -> None:
    """Warn where the processor makes something else of a picture than the Preprocess does."""
    rows, columns = np.mgrid[0:300, 0:400]
    waves = [np.sin(rows / 30 + shift) * np.cos(columns / 40) for shift in range(3)]
    picture = Image.fromarray((127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))
    if preprocess.channels != 3:
        return
    try:
        expected = torch.as_tensor(np.array(processor(picture, return_tensors="np")["pixel_values"][0]))
    except Exception:  # a processor that needs more than a picture
        return
    seen = Classifier(nn.Identity(), preprocess)
    found = preprocess.normalize(seen.preprocessed([picture], seen.views([picture])))[0]
    if found.shape == expected.shape and float((found - expected).abs().mean()) <= _SAME * max(
        1 / preprocess.std[0], 1
    ):
        return
    warn(
        f"{spec}: its processor makes {tuple(expected.shape)} of a picture in a way that cannot be said by size, short "
        f"side, mean and std; pictures are prepared as {preprocess}, which may change its answers a little",
    )


def _labels(config: Any) -> tuple[str, ...] | None:
    """The names of the classes; None where they are the library's placeholders."""
    known = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    names = tuple(known[index] for index in sorted(known))
    return None if names == tuple(f"LABEL_{index}" for index in range(len(names))) else names


def _kind(config: Any) -> tuple[str, HeadKind]:
    """(the library's class for a network of this configuration, how its scores are read)."""
    architecture = next(iter(config.architectures or ()), "")
    known = (kind for ending, kind in _KINDS.items() if architecture.endswith(ending))
    return next(known, ("AutoModelForImageClassification", "softmax"))


def _head(config: Any) -> HeadKind:
    _, head = _kind(config)
    if head != "softmax":
        return head
    if config.problem_type == "multi_label_classification":
        return "sigmoid"
    return "score" if config.problem_type == "regression" or config.num_labels == 1 else "softmax"
