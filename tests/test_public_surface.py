"""What `import phosphene` offers: this list is the promise; a name that goes is a breaking change."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import phosphene
from phosphene import errors

RESULTS = {"Attribution", "Attributions", "Box", "Contrast", "Impression", "LayerFeatures", "Located"}
RESULTS |= {"Predicted", "Prediction"}
ERRORS = {
    *("InputError", "MissingExtraError", "ModelError", "NotFoundError", "NumericalError", "OptionError"),
    *("OutputError", "PhospheneError", "PhospheneWarning", "ResourceError"),
}
VERBS = {
    *("atlas", "attribute", "batch", "contrast", "explain", "features", "fuse", "impress", "locate"),
    *("draw", "open_run", "predict", "read_image"),
}
NETWORKS = {
    *("Classifier", "Labels", "Preprocess", "ScoreFunction", "Target", "Unit", "View", "capture", "load_classifier"),
    *("Detected", "Direction", "Mask", "Region", "Similar", "Token", "prepare"),
}
EXTENDING = {
    *("Options", "Spec", "methods", "option", "parse_spec"),
    *("register_attribution", "register_metric", "register_recipe"),
}
PUBLIC = RESULTS | ERRORS | VERBS | NETWORKS | EXTENDING | {"Run", "keep_freed_memory"}


def test_the_public_names_are_these_and_no_others():
    assert set(phosphene.__all__) == PUBLIC
    assert len(phosphene.__all__) == len(PUBLIC)
    assert {name for name in dir(phosphene) if not name.startswith("__")} == PUBLIC
    for name in PUBLIC:
        assert inspect.getdoc(getattr(phosphene, name)), name
    with pytest.raises(AttributeError, match="no attribute 'entries'"):
        _ = phosphene.entries


def test_every_kind_of_error_is_public():
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.PhospheneError)
    }
    assert kinds | {"PhospheneWarning"} == ERRORS


@pytest.mark.parametrize("name", ["explain", "contrast", "impress", "fuse", "features"])
def test_verbs_use_the_same_words_in_the_same_order(name):
    parameters = inspect.signature(getattr(phosphene, name)).parameters
    shared = ["precision", "seed", "batch_size", "progress"]
    assert next(iter(parameters)) == "classifier"
    assert [word for word in parameters if word in shared] == [word for word in shared if word in parameters]
    assert {"precision", "seed", "progress"} <= set(parameters)
    assert all(
        parameter.kind is inspect.Parameter.KEYWORD_ONLY
        for word, parameter in parameters.items()
        if word in (*shared, "layer", "view", "preset", "steps", "frames")
    )


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, phosphene; print('torch' in sys.modules, 'phosphene.attribution' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"
