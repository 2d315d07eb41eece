"""phosphene: see what an image classifier has learned.

Everything public is imported when it is first used, so that the command answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phosphene.allocator import keep_freed_memory
    from phosphene.classifier import Classifier, Labels, Preprocess
    from phosphene.errors import PhospheneError, PhospheneWarning
    from phosphene.hooks import capture
    from phosphene.images import read_image
    from phosphene.pipeline.explain import contrast, explain
    from phosphene.pipeline.features import features
    from phosphene.pipeline.impress import fuse, impress
    from phosphene.pipeline.locate import Located, locate
    from phosphene.registry import register_attribution
    from phosphene.render import draw
    from phosphene.runtime import prepare
    from phosphene.store import open_run
    from phosphene.types import Attribution, Contrast, Impression, Target, Unit, View
    from phosphene.zoo import load_classifier

__version__ = "0.1.0"

_PLACES = {
    "Attribution": "types",
    "Classifier": "classifier",
    "Contrast": "types",
    "Impression": "types",
    "Labels": "classifier",
    "Located": "pipeline",
    "PhospheneError": "errors",
    "PhospheneWarning": "errors",
    "Preprocess": "classifier",
    "Target": "types",
    "Unit": "types",
    "View": "types",
    "capture": "hooks",
    "contrast": "pipeline",
    "draw": "render",
    "explain": "pipeline",
    "features": "pipeline",
    "fuse": "pipeline",
    "impress": "pipeline",
    "keep_freed_memory": "allocator",
    "load_classifier": "zoo",
    "locate": "pipeline",
    "open_run": "store",
    "prepare": "runtime",
    "read_image": "images",
    "register_attribution": "registry",
}

__all__ = [
    "Attribution",
    "Classifier",
    "Contrast",
    "Impression",
    "Labels",
    "Located",
    "PhospheneError",
    "PhospheneWarning",
    "Preprocess",
    "Target",
    "Unit",
    "View",
    "capture",
    "contrast",
    "draw",
    "explain",
    "features",
    "fuse",
    "impress",
    "keep_freed_memory",
    "load_classifier",
    "locate",
    "open_run",
    "prepare",
    "read_image",
    "register_attribution",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'phosphene' has no attribute '{name}'")
    if name in ("contrast", "explain"):
        import_module("phosphene.render")  # results show themselves in notebooks
    return getattr(import_module(f"phosphene.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
