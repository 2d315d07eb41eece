"""Labels, targets and preprocessing as people have them: read rightly, or refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier, Labels, Preprocess
from phosphene.errors import ModelError, NotFoundError, OptionError, PhospheneError
from phosphene.runtime import forward
from phosphene.targets import Target, Unit, resolve
from phosphene.tasks.attributions import explain
from tests.networks import classifier_of, pooled

NAMES = ("cat", "dog", "owl", "cat", "elk")


class Series:
    """As pandas has it: values with an index, a sequence by its tolist alone."""

    def tolist(self) -> list[str]:
        return list(NAMES)


@pytest.mark.parametrize(
    "labels",
    [
        list(NAMES),
        NAMES,
        np.array(NAMES),
        np.array(NAMES, dtype=object),
        Series(),
        iter(NAMES),
        {4: "elk", 0: "cat", 1: "dog", 2: "owl", 3: "cat"},
        {np.int64(index): name for index, name in enumerate(NAMES)},
        {str(index): name for index, name in enumerate(NAMES)},
        dict(enumerate(NAMES)).keys() and dict(enumerate(NAMES)),
    ],
)
def test_every_spelling_of_labels(labels):
    assert classifier_of(pooled(), labels=labels).labels.names == NAMES


def test_names_to_indices():
    assert classifier_of(pooled(), labels={"b": 1, "a": 0}).labels.names == ("a", "b")
    assert classifier_of(pooled(), labels={"10": 1, "1": 0, "2": np.int64(2)}).labels.names == ("1", "10", "2")
    assert classifier_of(pooled(), labels=[1, 10, np.int64(2)]).labels.names == ("1", "10", "2")
    assert classifier_of(pooled(), labels={0: 1, 1: "b"}).labels.names == ("1", "b")


def test_labels_that_are_set_later_are_read_too():
    classifier = classifier_of(pooled())
    classifier.labels = {1: "b", 0: "a"}
    assert classifier.labels.names == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("cat", "'cat' is one text"),
        ({"a", "b"}, "set.*no order"),
        ({0: "a", 2: "c"}, "class 1 has no name"),
        ({1: "a", 2: "b"}, "class 0 has no name"),
        ({"a": 0, "b": 0}, "'a'.*'b'.*class 0"),
        ({"a": 0, "b": -1}, "-1"),
        ({0: 1, 1: 0}, "names or indices"),
        ({"a": "b"}, "neither"),
        ({"a": 0, 1: "b"}, "neither"),
        ({0.5: "a"}, "neither"),
        ([["a", "b"], ["c", "d"]], r"label 0 is \['a', 'b'\]"),
        (np.array([["a", "b"]]), "label 0"),
        ([None, "a"], "label 0 is None"),
        (5, "labels.*int"),
        (True, "labels.*bool"),
        (object(), "labels.*object"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(labels, message):
    with pytest.raises(OptionError, match=message):
        classifier_of(pooled(), labels=labels)


def test_labels_of_unequal_parts_are_refused():
    with pytest.raises(OptionError, match="2 names but 1 ids"):
        Labels(("a", "b"), ("n1",))
    with pytest.raises(OptionError, match="2 names but 3 synonyms"):
        Labels(("a", "b"), (), ((), (), ()))
    assert Labels(["a", "b"], ["n1", "n2"]).ids == ("n1", "n2")


@pytest.mark.parametrize("count", [1, 4, 6, 1000])
def test_a_wrong_count_is_told_at_the_first_use(count):
    classifier = classifier_of(pooled(), labels=[f"name {index}" for index in range(count)])
    images = torch.rand(1, 3, 16, 16)
    for use in (
        lambda: classifier.logits(images),
        lambda: forward(classifier, images),
        lambda: explain(classifier, images, target=0),
    ):
        with pytest.raises(ModelError, match=rf"5 scores .* {count} labels") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_names_are_matched_exactly_first():
    labels = Labels(("1", "10", "2", "top3", "Dog", "dog"))
    assert [labels.find(name) for name in labels.names] == [0, 1, 2, 3, 4, 5]
    assert [labels.find(index) for index in (1, np.int64(2), torch.tensor(0))] == [1, 2, 0]
    with pytest.raises(NotFoundError, match=r"'5'.*names.*numbers"):
        labels.find("5")
    assert labels.search("10")[0] == 1
    assert Labels(("cat", "dog")).find("1") == 1
    assert Labels(("n02", "cat"), ("n01", "n02")).find("n02") == 0


@pytest.mark.parametrize("query", [None, True, 1.5, [1], {}, object(), b"cat", torch.tensor([1, 2]), float("nan")])
def test_what_is_no_class_is_refused(query):
    with pytest.raises(OptionError):
        Labels(("cat", "dog")).find(query)


IMAGES = torch.rand(3, 3, 16, 16)


@pytest.mark.parametrize(
    "target",
    [
        3,
        np.int64(3),
        np.uint8(3),
        np.array(3),
        torch.tensor(3),
        torch.tensor(3, dtype=torch.int32),
        3.0,
        np.float32(3),
        [3],
        [3, 3, 3],
        (3, np.int64(3), torch.tensor(3)),
        np.array([3, 3, 3]),
        torch.tensor([3, 3, 3]),
        torch.tensor([3.0, 3.0, 3.0]),
        range(3, 4),
        "elk",
        ["elk", 3, "elk"],
        np.array(["elk", "elk", "elk"]),
        np.str_("elk"),
        Target.of(3),
        Target((3,)),
        Target([3, 3, 3]),
        Target(np.int64(3)),
    ],
)
def test_every_spelling_of_a_target(target):
    names = ("cat", "dog", "owl", "elk", "emu")
    classifier = classifier_of(pooled(), labels=names)
    found = resolve(target, classifier.labels)
    assert found.expand(3).classes == (3, 3, 3)
    assert explain(classifier, IMAGES, "grad_cam", target=target).target.classes == (3, 3, 3)
    if not isinstance(target, Target) and not any(isinstance(item, str) for item in np.ravel(target)):
        assert Target.of(target).expand(3).classes == (3, 3, 3)


def test_a_unit_is_a_target():
    unit = Unit("0", 1)
    assert resolve(unit, Labels()) is unit
    assert Target(unit=unit) is unit


@pytest.mark.parametrize(
    "target",
    [
        True,
        np.True_,
        1.5,
        float("nan"),
        float("inf"),
        [True, False, True],
        torch.tensor([True, False, False]),
        [None],
        [],
        np.array([]),
        torch.eye(5)[:3],
        torch.eye(5, dtype=torch.long)[:3],
        np.eye(5)[3],
        torch.eye(5, dtype=torch.long)[3],
        [0, 0, 0, 1, 0],
        torch.eye(3)[1],
        torch.tensor([[1], [2], [3]]),
        {1: 2},
        b"cat",
        object(),
        [[1, 2, 3]],
        [1, 2],
        7,
        -1,
        10**30,
        1j,
        torch.tensor(1j),
        "unknown",
        lambda outputs: outputs[:, 0],
    ],
)
def test_what_is_no_target_is_refused_in_one_line(target):
    with pytest.raises(OptionError) as caught:
        explain(classifier_of(pooled()), IMAGES, "grad_cam", target=target)
    assert "\n" not in str(caught.value)


def test_a_one_hot_row_is_told_what_it_is():
    with pytest.raises(OptionError, match=r"one-hot.*argmax"):
        explain(classifier_of(pooled()), IMAGES, "grad_cam", target=torch.eye(5)[:3])
    with pytest.raises(OptionError, match=r"one-hot.*argmax"):
        explain(classifier_of(pooled()), IMAGES[:1], "grad_cam", target=[0, 0, 1, 0, 0])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}, "123.675.*divide by 255"),
        ({"std": (58.4, 57.1, 57.4)}, "58.4.*divide by 255"),
        ({"mean": (2.0, 0.5, 0.5)}, "divide by 255"),
        ({"mean": (float("nan"), 0, 0)}, "nan"),
        ({"mean": ("a", 0, 0)}, "mean"),
        ({"mean": None}, "mean"),
        ({"mean": 0.5}, "one per channel"),
        ({"size": 0}, "size"),
        ({"size": (8, -1)}, "size"),
        ({"size": "224"}, "size"),
        ({"size": (1, 2, 3)}, "size"),
        ({"size": (8.5, 8)}, "size"),
        ({"short_side": 0}, "short_side"),
        ({"interpolation": "cubic"}, "interpolation"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(facts, message):
    with pytest.raises(OptionError, match=message):
        Preprocess(**facts)


def test_every_spelling_of_preprocessing():
    made = Preprocess(224, 256, [0.5, 0.5, 0.5], np.array([0.25, 0.25, 0.25]))
    assert made == Preprocess((224, 224), 256, (0.5,) * 3, (0.25,) * 3)
    assert Preprocess([8, 9], mean=torch.zeros(3)).size == (8, 9)
    assert Preprocess(None, None, (0.5, 0.5, 0.5), (1 / 255,) * 3).channels == 3


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = pooled()

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.inner(image * mask)


class Optional(Two):
    def forward(self, image: Tensor, mask: Tensor | None = None, *more: Tensor, scale: float = 1.0) -> Tensor:
        assert mask is None
        return self.inner(image)


def test_a_second_input_is_refused_by_name():
    with pytest.raises(ModelError, match=r"Two takes 'mask' besides the pictures.*inputs=") as caught:
        explain(classifier_of(Two()), IMAGES)
    assert "\n" not in str(caught.value)
    assert forward(classifier_of(Optional()), IMAGES).shape == (3, 5)


@pytest.mark.parametrize(
    "error", [KeyError("a"), IndexError("b"), AttributeError("c"), TypeError("d"), ZeroDivisionError()]
)
def test_whatever_a_network_raises_is_one_line(error):
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    for method in ("saliency", "occlusion:window=8,stride=8", "grad_cam"):
        with pytest.raises(PhospheneError, match="Raises cannot run"):
            explain(Classifier(Raises(), Preprocess((16, 16))), IMAGES, method, target=0)
