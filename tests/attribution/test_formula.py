"""A method made of a mechanism and a formula: its arguments, its options and its text are those of both."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.layer_maps import layer_map
from phosphene.registry import entry, parse_spec, register_attribution, unregister
from phosphene.targets import Target
from phosphene.types import Attribution
from tests.networks import classifier_of, pooled


@pytest.fixture
def scaled():
    @register_attribution(title="Scaled", family="cam", paper="none2026")
    @by_formula(layer_map)
    def scaled_gradients(activations: Tensor, gradients: Tensor, *, factor: float = 2.0) -> Tensor:
        """The gradients, scaled.

        Args:
            activations: not used.
            gradients: (N, k, h, w).
            factor: what they are multiplied by,
                any number.

        References:
            none2026.
        """
        return factor * gradients.sum(dim=1)

    yield scaled_gradients
    unregister("attribution", "scaled_gradients")


def test_the_method_has_the_options_of_mechanism_and_formula(scaled):
    found = entry("attribution", "scaled_gradients")
    assert list(found.options) == ["layer", "relu", "factor"]
    assert (found.options["factor"].type, found.options["factor"].default) == (float, 2.0)
    assert found.options["factor"].doc == "what they are multiplied by, any number."
    assert found.options["relu"].doc.startswith("keep the positive part")
    assert str(parse_spec("scaled_gradients:factor=3,relu=true")) == "scaled_gradients:relu=true,factor=3.0"
    assert found.accepts("batch_size")


def test_the_formula_is_what_the_map_is_made_by(scaled):
    classifier, images = classifier_of(pooled()), torch.rand(2, 3, 16, 16)
    twice, thrice = (scaled(classifier, images, Target.of(1), factor=factor, layer="0").maps for factor in (2.0, 3.0))
    torch.testing.assert_close(thrice, 1.5 * twice)
    assert isinstance(scaled(classifier, images, Target.of(1)), Attribution)
    with pytest.raises(TypeError, match="power"):
        scaled(classifier, images, Target.of(1), power=2)


def test_the_text_has_the_sections_of_both_in_the_usual_order(scaled):
    text = inspect.getdoc(scaled) or ""
    titles = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert text.startswith("The gradients, scaled.\n")
    assert titles == ["Args:", "Returns:", "Raises:", "References:"]
    assert "formula" not in text
    assert "    activations:" not in text
