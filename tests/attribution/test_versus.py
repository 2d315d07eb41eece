"""Why this class and not that one: what is linear in the score gives the difference of the two classes' maps."""

from __future__ import annotations

import pytest
import torch

from phosphene.pipeline import attribute
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import classifier_of, pooled


@pytest.mark.parametrize("spec", ["cam", "grad_cam", "hires_cam", "input_x_gradient", "integrated_gradients:steps=4"])
def test_versus_is_the_difference_of_the_maps(spec: str) -> None:
    classifier, images = classifier_of(pooled()), torch.rand(2, 3, 16, 16)
    one, other = (attribute(classifier, images, Target.of(index), spec) for index in ([3, 1], [0, 4]))
    both = attribute(classifier, images, Target.of([3, 1], versus=[0, 4]), spec)
    assert map_error(both.maps, one.maps - other.maps) < 1e-5
    assert torch.allclose(both.score, one.score - other.score, atol=1e-5)


@pytest.mark.parametrize("spec", ["grad_cam", "hires_cam", "input_x_gradient"])
def test_margin_is_the_difference_to_the_best_other_class(spec: str) -> None:
    classifier, images = classifier_of(pooled()), torch.rand(2, 3, 16, 16)
    each = [attribute(classifier, images, Target.of(index), spec) for index in range(5)]
    scores = torch.stack([result.score for result in each], dim=1)
    scores[:, 3] = -torch.inf
    best = scores.argmax(dim=1).tolist()
    expected = torch.stack([each[3].maps[row] - each[other].maps[row] for row, other in enumerate(best)])
    assert map_error(attribute(classifier, images, Target.of(3, score="margin"), spec).maps, expected) < 1e-5
