"""A class and another side by side: one scale for both and their difference; what comes back, in its own colors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene.errors import OptionError
from phosphene.geometry import whole_view
from phosphene.render import contrast_sheet, draw, reconstruction_picture, scale_of, shared_scale
from phosphene.targets import Target
from phosphene.tasks.attributions import attribute, contrast
from phosphene.types import Attribution
from tests.comparing import map_error
from tests.networks import classifier_of, pooled, vgg_f

SIDE = 40


def result_of(values: float) -> Attribution:
    maps = torch.full((1, 4, 4), values)
    return Attribution(maps, Target.of(0), torch.zeros(1), "cam", (5.0, 5.0), (10.0, 10.0), (SIDE, SIDE))


def test_a_contrast_is_the_maps_of_both_and_of_the_difference() -> None:
    classifier, pictures = classifier_of(pooled()), torch.rand(2, 3, 16, 16)
    got = contrast(classifier, pictures, [3, 1], 4, "input_x_gradient")
    assert got.labels == tuple((classifier.labels[one], classifier.labels[4]) for one in (3, 1))
    assert [part.target.classes for part in got.parts] == [(3, 1), (4, 4), (3, 1)]
    assert got.difference.target.versus == (4, 4)
    assert map_error(got.difference.maps, got.one.maps - got.other.maps) < 1e-5
    assert {part.display for part in got.parts} == {"percentile"}
    with pytest.raises(OptionError, match="told apart from itself"):
        contrast(classifier, pictures, [3, 4], 4, "cam")
    never_negative = contrast(classifier, pictures, [1, 2], [0, 0], "saliency")
    assert {part.display for part in never_negative.parts} == {"positive"}
    assert draw(got).height == 2 * draw(contrast(classifier, pictures[:1], 3, 4, "saliency")).height
    assert got._repr_png_()


def test_the_same_value_has_the_same_color_in_all_three() -> None:
    """With a scale each, a map of 1 and one of 4 would look alike."""
    parts = [result_of(1.0), result_of(4.0), result_of(-4.0)]
    scale = shared_scale([scale_of(part.heat, "signed") for part in parts], "contrast")
    assert (scale.low, scale.high, scale.over) == (-4.0, 4.0, "contrast")
    classifier, pictures = classifier_of(pooled()), torch.rand(1, 3, 16, 16)
    got = contrast(classifier, pictures, 3, 4, "cam")
    doubled = [Attribution(**{**vars(part), "maps": 2 * part.maps}) for part in got.parts]
    once, twice = draw(got, side=SIDE), draw(type(got)(*doubled, got.labels), side=SIDE)
    pixels = [np.asarray(sheet)[8:24] for sheet in (once, twice)]
    assert np.array_equal(*pixels)  # (the scale follows all three, so only its numbers change)
    alone = [
        Attribution(**{**vars(part), "maps": part.maps * factor})
        for part, factor in zip(got.parts, (1, 9, 1), strict=True)
    ]
    assert not np.array_equal(pixels[0], np.asarray(draw(type(got)(*alone, got.labels), side=SIDE))[8:24])


def test_long_names_stay_under_their_picture_and_the_scale_is_stated() -> None:
    overlays = [Image.new("RGB", (60, 60), "gray")] * 3
    scale = shared_scale([scale_of(torch.ones(2, 2), "signed")], "contrast")
    sheet = np.asarray(contrast_sheet(overlays, ["a very long name of a class"] * 3, scale, height=60))
    assert (sheet[68:88, 68:75] == 255).all()  # nothing written between the columns
    assert (sheet[-26:] != 255).any()


def test_shared_scale_over_images() -> None:
    result = Attribution(
        torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 8.0)]),
        *(Target.of([0, 1]), torch.zeros(2), "cam", (5.0, 5.0), (10.0, 10.0), (SIDE, SIDE)),
    )
    own, shared = (np.asarray(draw(result, side=SIDE, scale=scale)) for scale in ("image", "shared"))
    left, right = np.s_[8:48, 8:48], np.s_[8:48, 56:96]
    assert np.array_equal(own[left], own[right])
    assert not np.array_equal(shared[left], shared[right])


def test_what_comes_back_is_drawn_in_its_colors() -> None:
    classifier, images = classifier_of(vgg_f()), torch.rand(1, 3, 16, 16)
    result = attribute(classifier, images, Target.of(1), "guided_backprop")
    view = whole_view((16, 16), (16, 16))
    picture = reconstruction_picture(result, view, 16)
    assert picture is not None
    shown = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255 - 0.5
    assert result.reconstruction is not None
    found = result.reconstruction[0]
    assert bool((shown[found > 0] > -0.01).all())
    assert bool((shown[found < 0] < 0.01).all())
    assert draw(result).width > 2 * 16
    inner = attribute(classifier, images, Target.of(1), "guided_backprop:to=3")
    assert reconstruction_picture(inner, view, 16) is None
    assert reconstruction_picture(attribute(classifier, images, Target.of(1), "saliency"), view, 16) is None
