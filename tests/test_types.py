from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phosphene.errors import NotFoundError, OptionError, PhospheneError
from phosphene.types import Attribution, Target, Unit, View
from tests.networks import classifier_of, linear


@given(st.lists(st.integers(0, 999), min_size=1, max_size=6), st.integers(1, 6))
def test_targets_are_broadcast_or_refused_never_zipped_short(classes, count):
    target = Target.of(classes)
    if len(classes) in (1, count):
        expanded = target.expand(count)
        assert len(expanded.classes) == count
        assert expanded.expand(count) == expanded
        assert [expanded.rows(i, i + 1).classes[0] for i in range(count)] == (classes * count)[:count]
    else:
        with pytest.raises(OptionError, match=f"{len(classes)} target classes for {count} images"):
            target.expand(count)


def test_versus_classes_are_broadcast_too():
    assert Target.of([1, 2], versus=3).expand(2).versus == (3, 3)
    assert Target.of(1, versus=3).expand(2).versus == (3, 3)
    assert Target.of(1, versus=3).expand(2).rows(1, 2) == Target((1,), (3,))
    with pytest.raises(OptionError, match="3 versus-classes for 2 classes"):
        Target.of([1, 2], versus=[3, 4, 5])


@pytest.mark.parametrize("classes", [7, np.int64(7), np.array(7), torch.tensor(7), [7], (7,), np.array([7]), {7}])
def test_every_spelling_of_one_class(classes):
    assert Target.of(classes).classes == (7,)


@pytest.mark.parametrize(
    "classes", ["tabby", ["tabby"], [], 1.5, [1.5], None, [None], torch.tensor([0.5]), [[1], [2]], True, object()]
)
def test_what_is_no_class_is_refused(classes):
    with pytest.raises(OptionError):
        Target.of(classes)


def test_a_target_is_one_thing():
    unit = Unit("conv", 3, (1, 2))
    assert str(unit) == "conv=3@1,2"
    assert str(Unit("conv")) == "conv"
    assert Target(unit=unit).expand(5) == Target(unit=unit)
    for arguments in ({}, {"classes": (1,), "unit": unit}, {"unit": unit, "versus": (1,)}):
        with pytest.raises(OptionError):
            Target(**arguments)
    with pytest.raises(OptionError, match="choose logit, probability or margin"):
        Target.of(1, score="loss")


def test_classes_the_network_does_not_have_are_named():
    classifier = classifier_of(linear())
    logits = torch.rand(1, 3)
    for target in (Target.of(3), Target.of(-1), Target.of(0, versus=3)):
        with pytest.raises(NotFoundError, match="has 3 classes, 0 to 2"):
            classifier.score(logits, target)


def test_scores_are_what_they_are_called():
    classifier, logits = classifier_of(linear()), torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    assert classifier.score(logits, Target.of([0, 2])).tolist() == [1.0, 5.0]
    assert torch.allclose(classifier.score(logits, Target.of(1, score="probability")), logits.softmax(1)[:, 1])
    assert classifier.score(logits, Target.of([1, 0], score="margin")).tolist() == [1.0, -5.0]
    assert classifier.score(logits, Target.of(1, versus=0)).tolist() == [2.0, 0.0]


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


def test_messages_are_one_printable_line():
    text = str(PhospheneError("a\nb\x1b[31m\udc80ü"))
    assert text == "a\\nb\\x1b[31m\\udc80ü"
