from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phosphene.attribution.cam import cam
from phosphene.attribution.input_x_gradient import input_x_gradient
from phosphene.attribution.occlusion import occlusion
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import OptionError
from phosphene.geometry import center_view, lay_on_original, whole_view
from phosphene.grids import sample_map, to_network_size
from phosphene.images import preprocess, read_image
from phosphene.targets import Target
from phosphene.types import View
from tests.networks import RedDetector

sizes = st.integers(1, 60)
views = st.builds(
    lambda original, scaled, top, left, height, width: View(original, scaled, (top, left, height, width)),
    st.tuples(sizes, sizes),
    st.tuples(sizes, sizes),
    st.integers(-10, 30),
    st.integers(-10, 30),
    sizes,
    sizes,
)


def test_center_view_is_the_published_one():
    assert center_view((300, 451), 256, (224, 224)) == View((300, 451), (256, 384), (16, 80, 224, 224))
    assert center_view((224, 224), 224, (224, 224)).crop == (0, 0, 224, 224)
    assert center_view((500, 375), 256, (224, 224)).scaled == (341, 256)


@given(st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_center_view_keeps_the_proportions_and_stays_inside(original):
    view = center_view(original, 256, (224, 224))
    assert min(view.scaled) == 256
    assert abs(view.scaled[0] / view.scaled[1] / (original[0] / original[1]) - 1) < 1 / 256
    top, left, height, width = view.crop
    assert 0 <= top <= view.scaled[0] - height
    assert 0 <= left <= view.scaled[1] - width
    # Centred to half a pixel.
    assert abs(2 * top + height - view.scaled[0]) <= 1
    assert abs(2 * left + width - view.scaled[1]) <= 1
    x0, y0, x1, y1 = view.box
    assert 0 <= x0 < x1 <= original[1] + 1e-9
    assert 0 <= y0 < y1 <= original[0] + 1e-9


@given(views, st.tuples(sizes, sizes), st.booleans())
def test_a_ramp_lies_on_the_original_where_it_belongs(view, cells, vertical):
    """Cells that hold their own place in network pixels: each original pixel must read its own place, to rounding."""
    stride = (view.size[0] / cells[0], view.size[1] / cells[1])
    offset = (stride[0] / 2, stride[1] / 2)
    axis = 0 if vertical else 1
    centers = offset[axis] + stride[axis] * torch.arange(cells[axis], dtype=torch.float64)
    values = centers[:, None].expand(cells) if vertical else centers[None].expand(cells)
    laid = lay_on_original(values, offset, stride, view, outside=-99.0)
    assert laid.shape == view.original
    for y in range(view.original[0]):
        for x in range(view.original[1]):
            place = (
                (y + 0.5) * view.scaled[0] / view.original[0] - view.crop[0],
                (x + 0.5) * view.scaled[1] / view.original[1] - view.crop[1],
            )
            inside = 0 <= place[0] < view.size[0] and 0 <= place[1] < view.size[1]
            edge = min(abs(place[0]), abs(place[0] - view.size[0]), abs(place[1]), abs(place[1] - view.size[1])) < 1e-6
            if inside and not edge:
                expected = min(max(place[axis], float(centers[0])), float(centers[-1]))
                assert float(laid[y, x]) == pytest.approx(expected, abs=1e-5)
            elif not edge:
                assert float(laid[y, x]) == -99.0


@given(views, st.tuples(sizes, sizes))
def test_laying_keeps_the_range_and_a_constant(view, cells):
    stride = (view.size[0] / cells[0], view.size[1] / cells[1])
    values = torch.rand(cells)
    laid = lay_on_original(values, (stride[0] / 2, stride[1] / 2), stride, view, outside=0.5)
    assert float(laid.min()) >= min(float(values.min()), 0.5) - 1e-6
    assert float(laid.max()) <= max(float(values.max()), 0.5) + 1e-6
    constant = lay_on_original(torch.full(cells, 0.3), (stride[0] / 2, stride[1] / 2), stride, view, outside=0.3)
    assert torch.allclose(constant, torch.full(view.original, 0.3))


def test_one_value_per_pixel_stays_as_it_is():
    values = torch.rand(2, 5, 7)
    assert torch.equal(to_network_size(values, (0.5, 0.5), (1.0, 1.0), (5, 7)), values)
    laid = lay_on_original(values[0], (0.5, 0.5), (1.0, 1.0), whole_view((5, 7), (5, 7)))
    assert torch.equal(laid, values[0])


def test_between_cells_bilinear_beyond_them_the_nearest():
    values = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    places = torch.tensor([-5.0, 1.0, 2.0, 3.0, 50.0], dtype=torch.float64)
    got = sample_map(values, (1.0, 1.0), (2.0, 2.0), places, places)
    assert torch.allclose(got[0, :, 0], torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0]))
    assert torch.allclose(got[0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


def test_a_smaller_answer_for_a_thumbnail():
    view = center_view((400, 600), 256, (224, 224))
    values = torch.rand(7, 7)
    large = lay_on_original(values, (16.0, 16.0), (32.0, 32.0), view)
    small = lay_on_original(values, (16.0, 16.0), (32.0, 32.0), view, size=(100, 150))
    coarse = large.view(100, 4, 150, 4).mean((1, 3))
    inner = (slice(8, -8), slice(34, -34))
    assert float((small - coarse)[inner].abs().max()) < 0.05


# --- drawn shapes: what the network sees red is red in the original


def _drawn(size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """(H, W, 3): grey, with a red box whose place is given as fractions of the picture."""
    picture = np.full((*size, 3), 90, np.uint8)
    y0, x0, y1, x1 = (round(part * size[index % 2]) for index, part in enumerate(box))
    picture[y0:y1, x0:x1] = (255, 0, 0)
    return picture


def _detector(cell: int = 1) -> Classifier:
    return Classifier(RedDetector(cell), Preprocess((64, 64), 72))


def _laid(result, views, pictures):
    return [
        lay_on_original(result.heat[i], *result.heat_grid, views[i], outside=0.0).numpy() for i in range(len(pictures))
    ]


def _center(weights: np.ndarray) -> tuple[float, float]:
    ys, xs = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    total = weights.sum()
    return float((weights * ys).sum() / total), float((weights * xs).sum() / total)


SHAPES = [(72, 72), (100, 301), (301, 100), (40, 90), (500, 333), (65, 64), (480, 640)]


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("kind", ["center", "whole"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_pixel_map_covers_the_drawn_box(tmp_path, size, kind, orientation):
    """Saliency and input x gradient are non-zero exactly on the red box, whatever the proportions and EXIF rotation."""
    drawn = _drawn(size, (0.38, 0.42, 0.58, 0.55))
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # stored turned; the viewer turns back
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(np.rot90(drawn, turns))).save(tmp_path / "drawn.png", exif=exif)
    picture, classifier = read_image(tmp_path / "drawn.png"), _detector()
    assert np.array_equal(np.asarray(picture), drawn)
    views = classifier.views([picture], kind)
    images = classifier.preprocessed([picture], views)
    red = (drawn[..., 0] == 255).astype(float)
    for method in (saliency, input_x_gradient):
        laid = _laid(method(classifier, images, Target.of(1)), views, [picture])[0]
        found = laid > laid.max() / 2
        # Two network pixels of slack, for the resize's own blur.
        slack = [2 * scale + 1 for scale in views[0].scale]
        ys, xs = np.nonzero(found)
        y0, x0, y1, x1 = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
        ry, rx = np.nonzero(red)
        assert abs(y0 - ry.min()) <= slack[0]
        assert abs(y1 - ry.max() - 1) <= slack[0]
        assert abs(x0 - rx.min()) <= slack[1]
        assert abs(x1 - rx.max() - 1) <= slack[1]


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("kind", ["center", "whole"])
def test_a_coarse_map_has_its_center_on_the_drawn_box(size, kind):
    """CAM on cells of 8 pixels and occlusion with windows of 8: the centre of the heat is the box's, to half a cell."""
    drawn = _drawn(size, (0.35, 0.4, 0.6, 0.6))
    picture, classifier = Image.fromarray(drawn), _detector(cell=8)
    views = classifier.views([picture], kind)
    images = classifier.preprocessed([picture], views)
    seen = np.zeros(size)
    x0, y0, x1, y1 = views[0].box
    seen[round(y0) : round(y1), round(x0) : round(x1)] = 1
    expected = _center((drawn[..., 0] == 255) * seen)
    results = [
        cam(classifier, images, Target.of(1)),
        occlusion(
            classifier, images, Target.of(1, score="logit"), window=(8, 8), stride=(4, 4), fill="black", batch_size=64
        ),
    ]
    for result in results:
        laid = _laid(result, views, [picture])[0].clip(0)
        got = _center(laid)
        assert abs(got[0] - expected[0]) <= 4 * views[0].scale[0]
        assert abs(got[1] - expected[1]) <= 4 * views[0].scale[1]


def test_a_batch_of_pictures_of_different_sizes():
    drawn = [_drawn(size, (0.4, 0.4, 0.6, 0.6)) for size in SHAPES]
    pictures, classifier = [Image.fromarray(picture) for picture in drawn], _detector()
    views = classifier.views(pictures)
    result = saliency(classifier, classifier.preprocessed(pictures, views), Target.of(1))
    for laid, picture in zip(_laid(result, views, pictures), drawn, strict=True):
        assert laid.shape == picture.shape[:2]
        inside = laid[picture[..., 0] == 255]
        assert inside.mean() > 0.6 * laid.max()


def test_networks_of_any_size_see_the_picture_as_it_is():
    classifier = Classifier(RedDetector())
    picture = Image.fromarray(_drawn((33, 57), (0.3, 0.3, 0.6, 0.6)))
    views = classifier.views([picture], "center")
    assert views[0] == View((33, 57), (33, 57), (0, 0, 33, 57))
    assert preprocess(picture, views[0]).shape == (3, 33, 57)
    with pytest.raises(OptionError, match="takes any size"):
        classifier.preprocessed([picture, picture], [views[0], whole_view((33, 57), (5, 5))])


def test_unknown_view_is_refused():
    with pytest.raises(OptionError, match="choose center or whole"):
        Preprocess((8, 8), 9).view((20, 20), "middle")
