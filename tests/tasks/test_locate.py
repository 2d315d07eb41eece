"""locate on a network that sees red: where it says the object is, is known."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from phosphene.attribution.layer_saliency import middle_layer
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import NumericalError, OptionError
from phosphene.geometry import lay_on_original, whole_view
from phosphene.localization.presets import PRESETS
from phosphene.runtime import activations, prepare
from phosphene.sources import Item
from phosphene.targets import Target
from phosphene.tasks import LocateConfig
from phosphene.tasks.attributions import attribute, explain
from phosphene.tasks.deep_features import deep_feature_layer, deep_features
from phosphene.tasks.objects import Located, configured, cut_out, evidence, grid_size, locate, to_original
from phosphene.tasks.ranking import posteriors
from phosphene.types import Box, Layer, Prediction
from tests.networks import classifier_of, pooled


def red_detector(*, flattened: bool = False) -> Classifier:
    """Class 1 is the amount of red beyond the other colors; nothing else matters."""
    convolution = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[0.1, 0.1, 0.1], [2.0, -1.0, -1.0]]).view(2, 3, 1, 1))
        convolution.bias.copy_(torch.tensor([0.0, -0.5]))
    head = [nn.Flatten(), nn.Linear(2 * 32 * 32, 2)] if flattened else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(convolution, nn.ReLU(), *head)
    return Classifier(net, Preprocess((32, 32), 36), ["grey", "red"])


def test_a_box_that_says_little_is_said_to():
    whole = Located(0, "red", 0.9, Box(0, 0, 20, 10), np.ones((10, 20), bool), np.ones((2, 2)), None, (5.0, 5.0))
    assert any("the box is the whole picture" in note for note in whole.notes)
    beside = replace(whole, box=Box(0, 0, 4, 4), point=(12.0, 5.0))
    assert beside.notes == ("the map is strongest outside of the box: look at the map",)
    assert replace(beside, point=(2.0, 3.0)).notes == ()


def picture(left: int = 90, right: int = 150, size: tuple[int, int] = (120, 200)) -> Image.Image:
    pixels = np.full((*size, 3), 110, np.uint8) + np.random.default_rng(0).integers(0, 20, (*size, 3), np.uint8)
    pixels[30:80, left:right] = [220, 40, 30]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("segment", ["graphcut", "threshold"])
@pytest.mark.parametrize("method", ["saliency", "cam", "layer_saliency:layer=0", "occlusion:window=6,stride=3"])
def test_the_object_is_found_in_pixels_of_the_picture(method, segment):
    (found,) = locate(red_detector(), picture(), target="red", method=method, segment=segment)
    assert found.index == 1
    assert found.mask.shape == (120, 200)
    np.testing.assert_allclose(tuple(found.box), (90, 30, 150, 80), atol=12)
    assert 90 <= found.point[0] <= 150
    assert 30 <= found.point[1] <= 80


def test_what_the_centre_crop_would_lose_is_found():
    (found,) = locate(red_detector(), picture(left=2, right=40), target=1, method="cam")
    assert found.box.x0 < 10
    np.testing.assert_allclose(tuple(found.box), (2, 30, 40, 80), atol=12)


def test_where_explain_reads_another_class_it_is_said():
    """The object lies beside the center crop, which is all that explain looks at."""
    shown = np.asarray(picture(left=0, right=0)).copy()
    shown[:, :42] = shown[:, 158:] = [220, 40, 30]
    (found,) = locate(red_detector(), shown, method="cam")
    assert found.label == "red"
    (said,) = (note for note in found.notes if note.startswith("explain"))
    own = explain(red_detector(), shown, method="saliency").explained[0]
    assert said == f"explain, which takes one look at the picture, reads {own}"
    assert own.label == "grey"
    (named,) = locate(red_detector(), shown, target="red", method="cam")
    assert not any(note.startswith("explain") for note in named.notes)
    (item,) = LocateConfig.of(["cam"]).run(prepare(red_detector()), [Item("a", "a.png", Image.fromarray(shown))])
    assert said in item.notes


def test_paper_preset_runs_ten_crops_on_the_whole_frame():
    (found,) = locate(red_detector(), picture(left=2, right=40), target=1, preset="paper")
    np.testing.assert_allclose(tuple(found.box), (2, 30, 40, 80), atol=8)


def test_paper_preset_cuts_the_map_as_it_is_at_the_pictures_own_resolution():
    prepared, shown, way = prepare(red_detector()), picture(), PRESETS["paper"]
    (seen,) = evidence(prepared, [shown], [1], way)
    assert seen.values.shape == (120, 200)
    view = whole_view((120, 200), (36, 36))  # nothing is cropped away: the frame is squashed to where ten crops fit
    found = attribute(prepared, prepared.preprocessed([shown], [view]), Target.of(1), "saliency:crops=10")
    laid = lay_on_original(found.maps[0], found.offset, found.stride, view)
    expected = (laid - laid.min()) / (laid.max() - laid.min())
    np.testing.assert_allclose(seen.values, expected.numpy(), atol=1e-5)


def test_paper_preset_ranks_classes_by_the_mean_over_ten_crops():
    prepared, shown = prepare(red_detector()), picture(left=2, right=40)
    around = prepared.preprocessed([shown], prepared.views([shown], "margin"))
    assert around.shape[-2:] == (36, 36)
    crops = [around[..., y : y + 32, x : x + 32] for y, x in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))]
    odds = [prepared.logits(seen).softmax(dim=1) for crop in crops for seen in (crop, crop.flip(-1))]
    torch.testing.assert_close(posteriors(prepared, [shown], PRESETS["paper"]), torch.stack(odds).mean(dim=0))


def test_mirror_image_of_the_picture_gives_the_mirrored_map():
    prepared, shown = prepare(red_detector()), picture(left=20, right=50)
    way = configured("best", "layer_saliency:layer=0")
    (plain,) = evidence(prepared, [shown], [1], way)
    (mirrored,) = evidence(prepared, [shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], [1], way)
    np.testing.assert_allclose(mirrored.values[:, ::-1], plain.values, atol=1e-5)


def test_a_batch_of_pictures_gives_the_maps_of_single_ones():
    prepared, way = prepare(red_detector()), configured("best", "cam")
    pictures = [picture(), picture(left=10, right=70, size=(150, 90))]
    together = evidence(prepared, pictures, [1, 1], way)
    for shown, seen in zip(pictures, together, strict=True):
        np.testing.assert_allclose(evidence(prepared, [shown], [1], way)[0].values, seen.values, atol=1e-6)


def test_a_network_of_one_size_is_shown_that_size_alone():
    (found,) = locate(red_detector(flattened=True), picture(), target="red", method="saliency", segment="threshold")
    assert found.mask.any()


def test_a_class_that_nothing_speaks_for_is_an_error():
    grey = Image.new("RGB", (64, 64), (10, 10, 10))
    with pytest.raises(NumericalError, match="red: the map is zero everywhere"):
        locate(red_detector(), grey, target="red", method="cam")


def test_several_classes_and_no_unit():
    found = locate(red_detector(), picture(), target=["red", "grey"], method="cam")
    assert [thing.label for thing in found] == ["red", "grey"]
    assert sum(thing.probability for thing in found) == pytest.approx(1.0)
    with pytest.raises(OptionError, match="one at a time"):
        locate(red_detector(), [picture(), picture()])


def test_another_method_gets_the_level_for_other_methods():
    best = PRESETS["best"]
    assert configured("best", "cam").threshold.level == best.other_level
    assert configured("best", list(best.methods)) == replace(best, otherwise=())
    assert configured("best", segment="threshold") == replace(best, segment="threshold")


def test_a_segmentation_that_there_is_not_is_refused():
    with pytest.raises(OptionError, match="segmentation 'graph' is unknown; give graphcut or threshold"):
        locate(red_detector(), picture(), segment="graph")


def test_gradients_at_single_pixels_are_cut_by_settings_of_their_own():
    net = nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    prepared, best = prepare(Classifier(net, Preprocess((32, 32), 36), ["grey", "red"])), PRESETS["best"]
    kinds = {"saliency": True, "smoothgrad:samples=1": True, "rise:masks=4": False}
    kinds |= {"occlusion": False, "grad_cam:layer=0": False, "smoothgrad(grad_cam:layer=0):samples=1": False}
    for method, fine in kinds.items():
        assert evidence(prepared, [picture()], [1], configured("best", method, "threshold"))[0].fine is fine, method
    (both,) = evidence(prepared, [picture()], [1], configured("best", ["saliency", "rise:masks=4"], "threshold"))
    assert not both.fine
    assert best.settings(fine=True) == best.fine.graph_cut != best.settings()
    assert configured("best", "saliency", "threshold").settings(fine=True) == best.fine.threshold
    assert configured("paper", "saliency").settings(fine=True) == configured("paper", "saliency").graph_cut


def test_single_bright_pixels_count_less_where_the_power_is_below_one():
    prepared, shown = prepare(red_detector()), picture()
    linear = configured(replace(PRESETS["best"], fine=None), "input_x_gradient", "threshold")
    (plain,) = evidence(prepared, [shown], [1], linear)
    (rooted,) = evidence(prepared, [shown], [1], configured("best", "input_x_gradient", "threshold"))
    assert rooted.values.mean() > plain.values.mean() + 0.001


def test_masks_at_the_pictures_size_keep_their_place():
    mask = np.zeros(grid_size((120, 200)), bool)
    mask[10:20, 30:60] = True
    large = to_original(mask, (120, 200))
    rows, columns = np.flatnonzero(large.any(1)), np.flatnonzero(large.any(0))
    scale = 200 / mask.shape[1]
    np.testing.assert_allclose(
        [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1], np.array([10, 20, 30, 60]) * scale, atol=1
    )


def test_a_picture_of_several_classes_is_looked_at_once_for_its_deep_features(monkeypatch):
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU())
    net = nn.Sequential(stem, nn.Conv2d(8, 2, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    prepared, looked = prepare(Classifier(net, Preprocess((32, 32), 36), ["a", "b"])), []
    monkeypatch.setattr(
        "phosphene.tasks.deep_features.activations",
        lambda classifier, images, layers: looked.append(layers) or activations(classifier, images, layers),
    )
    first, second = picture(), picture(left=10, right=70, size=(150, 90))
    way = configured("best", "layer_saliency:layer=0")
    seen = evidence(prepared, [first, first, second], [0, 1, 1], way)
    assert looked == [["0"], ["0"]]
    assert [found.deep_features.shape for found in seen] == [(58, 96, 6), (58, 96, 6), (96, 58, 6)]
    np.testing.assert_array_equal(seen[0].deep_features, seen[1].deep_features)
    assert evidence(prepared, [first], [0], replace(way, segment="threshold"))[0].deep_features is None


def test_a_network_without_a_middle_grid_is_cut_by_color():
    (seen,) = evidence(prepare(red_detector()), [picture()], [1], configured("best", "cam"))
    assert seen.deep_features is None


def test_a_class_that_is_all_but_ruled_out_is_said_to_be():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))
    way = configured("best", "grad_cam")
    (seen,) = evidence(prepare(classifier_of(pooled())), [picture], [1], way)
    found = cut_out(picture, seen, way, Prediction(1, "one", 1e-5))
    said = "the class has a probability of 0.001 %: the box holds what speaks for it most, not how much"
    assert (found.note, found.notes) == (None, (said,))
    assert said in found._repr_html_()


class Standardized(nn.Module):
    """A convolution whose weights, of 4 x 4, go through a module first."""

    def __init__(self, given, made):
        super().__init__()
        self.weight, self.standard = nn.Parameter(torch.randn(made, given, 4, 4)), nn.Identity()

    def forward(self, x):
        return F.conv2d(x, self.standard(self.weight), stride=2, padding=1)


class Positions(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, channels, 8, 8))

    def forward(self, like):
        return self.table.expand_as(like[:1])


class Odd(nn.Module):
    def __init__(self, channels=64):
        super().__init__()
        self.first, self.second, self.third = Standardized(3, 8), Standardized(8, 8), Standardized(8, channels)
        self.positions, self.head = Positions(channels), nn.Linear(channels, 5)

    def forward(self, x):
        x = self.third(self.second(self.first(x).relu()).relu())
        return self.head((x + self.positions(x)).relu().mean((2, 3)))


def test_neither_weights_nor_learned_maps_are_what_places_look_like():
    classifier = Classifier(Odd(), Preprocess((64, 64)), list("abcde"))
    looks = prepare(classifier).looks
    assert deep_feature_layer(looks.layers, looks.size, looks.changes_with_picture) == "third"
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(2)]
    images = [torch.from_numpy(picture).permute(2, 0, 1) / 255 for picture in pictures]
    one, other = deep_features(prepare(classifier), images, (64, 64), [(16, 16)] * 2, 3)
    assert not np.array_equal(one, other)


def test_weights_on_the_grid_of_the_maps_are_no_middle_layer():
    maps = [Layer(name, "Conv2d", (8, 4, 4), order, placed=True, layout="NCHW") for order, name in enumerate("ac")]
    weights = [Layer(name, "Identity", (8, 4, 4), 9, rows=12) for name in ("w", "v")]
    learned = Layer("p", "Positions", (8, 4, 4), 9, layout="NCHW")
    assert middle_layer([maps[0], *weights, learned, maps[1]], "c", (64, 64)) == "c"


def test_the_first_call_of_a_process_draws_none_of_the_users_numbers(tmp_path):
    code = (
        "import random, numpy as np, torch, phosphene; from torch import nn\n"
        "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "classifier = phosphene.Classifier(net, phosphene.Preprocess((16, 16)), list('abcd'))\n"
        "random.seed(0); before = random.getstate()\n"
        "phosphene.locate(classifier, np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8), target=0)\n"
        "print(random.getstate() == before)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
