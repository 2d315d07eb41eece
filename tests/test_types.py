from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phosphene.errors import OptionError, PhospheneError
from phosphene.targets import Target
from phosphene.types import Attribution, Attributions, View


@given(
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    st.tuples(st.integers(1, 600), st.integers(1, 600)),
    st.tuples(st.integers(-20, 300), st.integers(-20, 300), st.integers(1, 300), st.integers(1, 300)),
)
def test_the_box_of_a_view_is_the_crop_in_original_pixels(original, scaled, crop):
    view = View(original, scaled, crop)
    x0, y0, x1, y1 = view.box
    assert view.size == crop[2:]
    assert x0 * scaled[1] / original[1] == pytest.approx(crop[1], abs=1e-6)
    assert (y1 - y0) * scaled[0] / original[0] == pytest.approx(crop[2], abs=1e-6)
    assert (x1 - x0) / view.scale[1] == pytest.approx(crop[3], abs=1e-6)


def test_one_image_of_an_attribution():
    maps = torch.rand(3, 4, 5)
    both = Attribution(
        maps,
        Target.of([1, 2, 3]),
        torch.arange(3.0),
        "mine",
        (0.5, 0.5),
        (1.0, 1.0),
        (4, 5),
        evidence=maps * 2,
        checks={"error": (0.1, 0.2, 0.3)},
        problems=(None, "nothing", None),
    )
    one = both[-2]
    assert torch.equal(one.maps, maps[1:2])
    assert one.target.classes == (2,)
    assert one.checks == {"error": (0.2,)}
    assert one.problems == ("nothing",)
    assert torch.equal(one.heat, maps[1:2] * 2)
    assert [len(part) for part in both] == [1, 1, 1]
    with pytest.raises(IndexError, match="image 3 of 3"):
        both[3]


def test_results_are_compared_as_objects_and_say_what_there_is():
    one, other = (
        Attribution(torch.zeros(2, 2, 2), Target.of([0, 1]), torch.zeros(2), "cam", (1.0, 1.0), (2.0, 2.0), (4, 4))
        for _ in range(2)
    )
    assert one != other
    assert len({one, other}) == 2
    both = Attributions(("cam", "saliency"), (one, other))
    assert both[-1] is other
    with pytest.raises(IndexError, match=r"method 5 of 2 \(cam, saliency\)"):
        both[5]


def test_messages_are_one_printable_line():
    text = str(PhospheneError("a\nb\x1b[31m\udc80ü"))
    assert text == "a\\nb\\x1b[31m\\udc80ü"


def test_numpy_takes_the_maps_of_one_method_and_not_of_several():
    maps = torch.arange(8.0).view(2, 2, 2)
    one = Attribution(maps, Target.of([0, 1]), torch.zeros(2), "saliency", (1.0, 1.0), (2.0, 2.0), (4, 4))
    assert np.array_equal(np.asarray(one), maps.numpy())
    assert np.asarray(one, dtype="float64").dtype == np.float64
    with pytest.raises(OptionError, match="take one"):
        np.asarray(Attributions(("saliency", "cam"), (one, one)))
