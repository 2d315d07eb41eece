"""phosphene: see what an image classifier has learned.

Everything public is imported when it is first used, so that the command answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phosphene.allocator import keep_freed_memory as keep_freed_memory
    from phosphene.atlases import atlas as atlas
    from phosphene.batches import batch as batch
    from phosphene.classifier import Classifier as Classifier
    from phosphene.classifier import Labels as Labels
    from phosphene.classifier import Preprocess as Preprocess
    from phosphene.errors import InputError as InputError
    from phosphene.errors import MissingExtraError as MissingExtraError
    from phosphene.errors import ModelError as ModelError
    from phosphene.errors import NotFoundError as NotFoundError
    from phosphene.errors import NumericalError as NumericalError
    from phosphene.errors import OptionError as OptionError
    from phosphene.errors import OutputError as OutputError
    from phosphene.errors import PhospheneError as PhospheneError
    from phosphene.errors import PhospheneWarning as PhospheneWarning
    from phosphene.errors import ResourceError as ResourceError
    from phosphene.hooks import capture as capture
    from phosphene.images import read_image as read_image
    from phosphene.inner_targets import Direction as Direction
    from phosphene.inner_targets import Token as Token
    from phosphene.options import Options as Options
    from phosphene.options import option as option
    from phosphene.output_targets import Detected as Detected
    from phosphene.output_targets import Mask as Mask
    from phosphene.output_targets import Region as Region
    from phosphene.output_targets import Similar as Similar
    from phosphene.registry import Spec as Spec
    from phosphene.registry import methods as methods
    from phosphene.registry import parse_spec as parse_spec
    from phosphene.registry import register_attribution as register_attribution
    from phosphene.registry import register_metric as register_metric
    from phosphene.registry import register_recipe as register_recipe
    from phosphene.render import draw as draw
    from phosphene.runtime import prepare as prepare
    from phosphene.score_function import ScoreFunction as ScoreFunction
    from phosphene.store import Run as Run
    from phosphene.store import open_run as open_run
    from phosphene.targets import Target as Target
    from phosphene.targets import Unit as Unit
    from phosphene.tasks.attributions import attribute as attribute
    from phosphene.tasks.attributions import contrast as contrast
    from phosphene.tasks.attributions import explain as explain
    from phosphene.tasks.facets import LayerFeatures as LayerFeatures
    from phosphene.tasks.facets import features as features
    from phosphene.tasks.impressions import fuse as fuse
    from phosphene.tasks.impressions import impress as impress
    from phosphene.tasks.objects import Located as Located
    from phosphene.tasks.objects import locate as locate
    from phosphene.tasks.predict import Predicted as Predicted
    from phosphene.tasks.predict import predict as predict
    from phosphene.types import Attribution as Attribution
    from phosphene.types import Attributions as Attributions
    from phosphene.types import Box as Box
    from phosphene.types import Contrast as Contrast
    from phosphene.types import Impression as Impression
    from phosphene.types import Prediction as Prediction
    from phosphene.types import View as View
    from phosphene.zoo import load_classifier as load_classifier

__version__ = "0.1.0"

# Where each public name stands; what is not here may change without notice.
_PLACES = {
    "Attribution": "types",
    "Attributions": "types",
    "Box": "types",
    "Classifier": "classifier",
    "Contrast": "types",
    "Detected": "output_targets",
    "Direction": "inner_targets",
    "Impression": "types",
    "InputError": "errors",
    "Labels": "classifier",
    "LayerFeatures": "tasks.facets",
    "Located": "tasks.objects",
    "Mask": "output_targets",
    "MissingExtraError": "errors",
    "ModelError": "errors",
    "NotFoundError": "errors",
    "NumericalError": "errors",
    "OptionError": "errors",
    "Options": "options",
    "OutputError": "errors",
    "PhospheneError": "errors",
    "PhospheneWarning": "errors",
    "Predicted": "tasks.predict",
    "Prediction": "types",
    "Preprocess": "classifier",
    "Region": "output_targets",
    "ResourceError": "errors",
    "Run": "store",
    "ScoreFunction": "score_function",
    "Similar": "output_targets",
    "Spec": "registry",
    "Target": "targets",
    "Token": "inner_targets",
    "Unit": "targets",
    "View": "types",
    "atlas": "atlases",
    "attribute": "tasks.attributions",
    "batch": "batches",
    "capture": "hooks",
    "contrast": "tasks.attributions",
    "draw": "render",
    "explain": "tasks.attributions",
    "features": "tasks.facets",
    "fuse": "tasks.impressions",
    "impress": "tasks.impressions",
    "keep_freed_memory": "allocator",
    "load_classifier": "zoo",
    "locate": "tasks.objects",
    "methods": "registry",
    "open_run": "store",
    "option": "options",
    "parse_spec": "registry",
    "predict": "tasks.predict",
    "prepare": "runtime",
    "read_image": "images",
    "register_attribution": "registry",
    "register_metric": "registry",
    "register_recipe": "registry",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'phosphene' has no attribute '{name}'")
    if _PLACES[name] == "types" or _PLACES[name].startswith("tasks."):
        import_module("phosphene.render")  # results show themselves in notebooks
    return getattr(import_module(f"phosphene.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])
