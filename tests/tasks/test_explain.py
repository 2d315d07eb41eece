"""The explain task: several pictures a pass, the same maps as one by one, rows that need no model to be shown."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from PIL import Image

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import OptionError
from phosphene.render import Scale
from phosphene.runtime import prepare
from phosphene.sources import Item
from phosphene.store import Asset
from phosphene.tasks import ExplainConfig, explain
from phosphene.tasks.map_rows import recolored
from tests import networks

METHODS = ["saliency", "grad_cam", "rise:masks=8,cells=4", "occlusion:window=8,stride=8"]


def items(count: int, size: tuple[int, int] = (20, 24)) -> list[Item]:
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 255, (*size, 3), np.uint8)) for _ in range(count)]
    return [Item(f"{index}.png", f"photos/{index}.png", picture) for index, picture in enumerate(pictures)]


def classifier(size=(16, 16)):
    return prepare(networks.classifier_of(networks.pooled(), size, labels=list("abcde")))


def values(row):
    return [shown.map.content for shown in row.maps]


@pytest.mark.parametrize("options", [{}, {"classes": "top2"}, {"classes": "b", "versus": "c"}, {"view": "whole"}])
def test_several_pictures_at_once_are_as_each_by_itself(options):
    config, network, pictures = ExplainConfig.of(METHODS, **options), classifier(), items(5)
    together = list(config.run(network, pictures))
    for number, (item, row) in enumerate(zip(pictures, together, strict=True)):
        (alone,) = config.run(network, [item], start=number)
        assert (row.key, row.size, row.seen) == (alone.key, alone.size, alone.seen)
        assert [shown.target for shown in row.maps] == [shown.target for shown in alone.maps]
        assert [shown.map.name for shown in row.maps] == [shown.map.name for shown in alone.maps]
        for one, other in zip(values(row), values(alone), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"versus": "c"}])
def test_many_classes_of_a_picture_are_told_part_by_part(monkeypatch, options):
    config, network, heard = ExplainConfig.of(METHODS, classes="top5", **options), classifier(), []
    (whole,) = config.run(network, items(1))
    monkeypatch.setattr(explain, "_MAPS_AT_ONCE", 2)
    (parts,) = config.run(network, items(1), progress=lambda *told: heard.append(told))
    total = len(whole.maps) // len(METHODS)
    assert [told for told in heard if told[2] == "saliency"] == [
        (min(done, total), total, "saliency") for done in range(2, total + 2, 2)
    ]
    for name in ("rise", "occlusion") if not options else ():  # those that tell how far they are themselves
        told = [(done, of) for done, of, text in heard if text.startswith(name)]
        assert told == sorted(told)
        assert {of for _, of in told} == {told[-1][0]}
    assert [shown.target for shown in whole.maps] == [shown.target for shown in parts.maps]
    for one, other in zip(values(whole), values(parts), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_one_pass_for_all_pictures_of_a_batch(monkeypatch):
    network, passes = classifier(), []
    list(ExplainConfig.of(["saliency"]).run(network, items(1)))  # whatever is tried out once
    run = type(network).run
    monkeypatch.setattr(
        type(network), "run", lambda self, module, images: passes.append(len(images)) or run(self, module, images)
    )
    list(ExplainConfig.of(["saliency"]).run(network, items(4)))
    assert passes
    assert set(passes) <= {4, 1}  # all at once, and of each size of batch one image alone, with which it is compared
    assert passes.count(1) <= passes.count(4)


def test_pictures_of_several_sizes_in_a_network_of_any_size():
    config, network = ExplainConfig.of(["saliency"], view="whole"), classifier(None)
    mixed = [*items(2, (20, 24)), *items(1, (16, 16)), *items(1, (20, 24))]
    assert [shown.map.content.shape for row in config.run(network, mixed) for shown in row.maps] == [
        (20, 24),
        (20, 24),
        (16, 16),
        (20, 24),
    ]


def test_errors_take_their_place_among_the_rows():
    first, last = items(2)
    missing = Item("gone.png", "photos/gone.png", error="photos/gone.png: no such file", label="b", columns={"age": 3})
    rows = list(ExplainConfig.of(["saliency"]).run(classifier(), [first, missing, last], start=7))
    assert [row.status for row in rows] == ["ok", "error", "ok"]
    assert (rows[1].error, rows[1].label, rows[1].columns) == (missing.error, "b", {"age": 3})
    assert rows[2].picture.name == "010-1/picture.jpg"


def test_a_picture_without_an_answer_leaves_the_others_alone():
    network = prepare(networks.classifier_of(networks.NotANumber(), labels=list("abcde")))
    dark, other = (Item(f"{i}", f"{i}", Image.new("RGB", (16, 16), (20 + i,) * 3)) for i in range(2))
    bright = Item("bright", "bright", Image.new("RGB", (16, 16), (250,) * 3))
    rows = list(ExplainConfig.of(["saliency"]).run(network, [dark, bright, other]))
    assert [row.status for row in rows] == ["ok", "error", "ok"]
    assert "NaN or infinite" in rows[1].error


def test_a_config_says_all_that_decides_the_rows():
    config = ExplainConfig.of(METHODS, classes="top2", seed=3)
    described = config.described()
    assert described["classes"] == "top2"
    assert described["batch_size"] == config.batch_size
    assert described["methods"] == [str(spec) for spec in config.methods]


def test_with_several_classes_fewer_pictures_go_together():
    network = classifier()
    assert ExplainConfig.of(["cam"], batch_size=8).pictures_at_once(network) == 8
    assert ExplainConfig.of(["cam"], classes="top3", batch_size=8).pictures_at_once(network) == 2
    assert ExplainConfig.of(["cam"], classes="top50", batch_size=8).pictures_at_once(network) == 1


def test_what_fails_for_one_map_is_in_its_row_alone():
    from phosphene.targets import Unit

    config = ExplainConfig.of(["saliency"], target=Unit("0", 99))
    rows = list(config.run(classifier(), items(3)))
    assert [shown.status for row in rows for shown in row.maps] == ["error"] * 3
    assert all("no unit 0=99" in shown.error for row in rows for shown in row.maps)
    assert all(row.status == "ok" for row in rows)


def test_overlays_are_drawn_when_their_row_is_asked_for():
    rows = ExplainConfig.of(["saliency"]).run(classifier(), items(2))
    shown = next(rows).maps[0]
    assert isinstance(shown.overlay, Asset)
    assert shown.overlay.content.size == (24 * 11, 20 * 11)  # a caption would cover so small a picture


@pytest.mark.parametrize("versus", [None, "c"])
@pytest.mark.parametrize(
    ("render", "drawn"), [("overlay", (True, False)), ("map", (False, True)), ("both", (True, True))]
)
def test_what_is_drawn_of_a_map_is_chosen(render, drawn, versus):
    network, config = classifier(), ExplainConfig.of(["grad_cam"], classes="b", versus=versus, render=render)
    (row,) = config.run(network, items(1))
    scales = {"grad_cam": Scale(-1.0, 1.0, "signed")}
    again = recolored(row, items(1)[0].picture, scales, lambda file: file.content)
    for made in (row, again):
        (shown,) = made.maps
        for part in (shown, *(shown.beside or ())):
            assert (part.overlay is not None, part.opaque is not None) == drawn
            assert (part.heat is not None) == drawn[0]
        assert (shown.contrast is not None) == (versus is not None)
    if drawn[1]:
        assert again.maps[0].opaque.content.size == (24 * 11, 20 * 11)
        assert again.maps[0].opaque.content.mode == "RGB"
        assert config.described()["render"] == render


def test_of_a_picture_of_which_little_is_seen_that_is_said():
    config = ExplainConfig.of(["cam"])
    network = prepare(Classifier(networks.pooled(), Preprocess((16, 16), 16), list("abcde")))
    ((narrow,), (plain,)) = (config.run(network, items(1, size)) for size in ((20, 400), (20, 24)))
    assert any("saw 5 % of the picture" in note for note in narrow.maps[0].notes)
    assert plain.maps[0].notes == ()


def test_a_map_by_itself_has_the_colors_of_its_scale():
    (row,) = ExplainConfig.of(["saliency"], view="whole", render="map").run(
        classifier((256, 256)), items(1, (256, 256))
    )
    (shown,) = row.maps
    picture, values = np.asarray(shown.opaque.content), shown.map.content
    palette = matplotlib.colormaps["inferno"]
    share = np.clip(values / shown.scale.high, 0, 1)
    np.testing.assert_array_equal(picture, palette((share * 255).round().astype(np.uint8), bytes=True)[..., :3])


def test_a_window_that_fits_no_usual_picture_is_refused_and_one_that_a_small_picture_has_no_room_for_is_not():
    network = classifier(size=None)
    config = ExplainConfig.of(["occlusion:window=30,stride=10"])
    (row,) = config.run(network, items(1), first=True)
    assert "does not fit an image of 20 x 24" in row.maps[0].error
    with pytest.raises(OptionError, match="does not fit"):
        list(ExplainConfig.of(["occlusion:window=300,stride=10"]).run(network, items(1), first=True))
