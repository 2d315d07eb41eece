"""The locate and predict tasks: batches are as single pictures, errors are rows, configs travel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene import predict
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import NumericalError, OptionError
from phosphene.runtime import prepare
from phosphene.sources import Item
from phosphene.tasks import LocateConfig, PredictConfig
from tests import networks
from tests.tasks.test_explain import classifier, items
from tests.tasks.test_locate import picture, red_detector

CONFIGS = [LocateConfig.of(["cam"], segment="threshold", classes="top2"), PredictConfig(count=2)]


def red_items():
    return [
        Item(f"{left}.png", f"photos/{left}.png", picture(left, left + 60, (120, 200 + left))) for left in (20, 60, 90)
    ]


def test_located_together_as_each_by_itself():
    config, network = LocateConfig.of(["cam"], segment="threshold", classes="red"), prepare(red_detector())
    for number, row in enumerate(config.run(network, red_items())):
        (alone,) = config.run(network, [red_items()[number]], start=number)
        assert row.objects[0].box == alone.objects[0].box
        assert row.objects[0].mask.name == alone.objects[0].mask.name
        np.testing.assert_allclose(row.objects[0].map.content, alone.objects[0].map.content, atol=1e-6)
        left = (20, 60, 90)[number]
        np.testing.assert_allclose(row.objects[0].box, (left, 30, left + 60, 80), atol=12)


def test_what_cannot_be_located_is_an_error_of_its_picture():
    grey = Item("grey.png", "photos/grey.png", Image.new("RGB", (64, 64), (10, 10, 10)))
    config = LocateConfig.of(["cam"], segment="threshold", classes="red")
    rows = list(config.run(prepare(red_detector()), [red_items()[0], grey, red_items()[1]]))
    assert [(row.status, len(row.objects)) for row in rows] == [("ok", 1), ("error", 0), ("ok", 1)]
    assert "zero everywhere" in rows[1].error
    assert rows[1].size == (64, 64)


def test_predicted_together_as_each_by_itself():
    config, network = PredictConfig(count=3), classifier()
    rows = list(config.run(network, items(5)))
    for row, item in zip(rows, items(5), strict=True):
        (alone,) = config.run(network, [item])
        assert [best.label for best in row.predicted] == [best.label for best in alone.predicted]
        np.testing.assert_allclose(
            [best.probability for best in row.predicted], [best.probability for best in alone.predicted], rtol=1e-5
        )
        assert len(row.predicted) == 3
        assert row.size == (20, 24)


def test_predict_in_python_says_what_the_task_says():
    pictures = [item.picture for item in items(3)]
    rows = list(PredictConfig(count=2).run(prepare(classifier()), items(3)))
    found = predict(classifier(), pictures, count=2)
    assert [[best.label for best in one] for one in found] == [[best.label for best in row.predicted] for row in rows]
    assert [len(one) for one in found] == [2, 2, 2]
    assert found[1][0].probability == pytest.approx(rows[1].predicted[0].probability, rel=1e-5)
    (alone,) = predict(classifier(), pictures[2], count=500)
    assert len(alone) == 5  # as many classes as there are
    assert str(alone[0]) in repr(alone)
    assert str(alone[0]).replace("<", "&lt;") in alone._repr_html_()


def test_scores_are_no_probabilities():
    scored = Classifier(networks.pooled(), Preprocess((16, 16)), list("abcde"), head="score")
    (found,) = predict(scored, items(1)[0].picture, count=2)
    assert "%" not in repr(found)


def test_predict_in_python_refuses_what_makes_no_sense():
    with pytest.raises(OptionError, match="count=0"):
        predict(classifier(), items(1)[0].picture, count=0)
    broken = classifier()
    with torch.no_grad():
        broken.source.module[-1].weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"image 0: .*NaN"):
        predict(broken, items(1)[0].picture)


@pytest.mark.parametrize("config", CONFIGS)
def test_errors_take_their_place_and_carry_what_the_source_tells(config):
    first, last = items(2)
    missing = Item("gone.png", "photos/gone.png", error="photos/gone.png: no such file", label="b", columns={"age": 3})
    rows = list(config.run(classifier(), [first, missing, last]))
    assert [row.key for row in rows] == ["0.png", "gone.png", "1.png"]
    assert (rows[1].status, rows[1].error) == ("error", missing.error)
    assert (rows[1].label, rows[1].columns) == ("b", {"age": 3})


@pytest.mark.parametrize("config", CONFIGS)
def test_a_picture_without_an_answer_leaves_the_others_alone(config):
    network = prepare(networks.classifier_of(networks.NotANumber(), labels=list("abcde")))
    shades = [Item(f"{shade}", f"{shade}", Image.new("RGB", (16, 16), (shade,) * 3)) for shade in (20, 250, 30)]
    rows = list(config.run(network, shades))
    assert "NaN or infinite" in rows[1].error
    assert all("NaN or infinite" not in str(row.error) for row in (rows[0], rows[2]))
