"""Networks that cut, turn or mirror what they are given: maps lie where the network looks, or are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError
from phosphene.runtime import Placement, prepare
from phosphene.tasks.attributions import explain

SIZE = 48
LAYER_METHODS = [
    "cam",
    "grad_cam",
    "layer_cam",
    "eigen_cam",
    "score_cam",
    "ablation_cam",
    "shapley_cam",
    "layer_saliency",
]


class Wrapped(nn.Module):
    """A small network behind a step of its own."""

    def __init__(self, step) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.head = nn.Linear(8, 4)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.3, generator=generator)
        self.step = step

    def forward(self, images):
        return self.head(self.features(self.step(images)).relu().mean(dim=(2, 3)))


def classifier(step, side: int = SIZE) -> Classifier:
    return Classifier(Wrapped(step).eval(), Preprocess((side, side)))


def by_grid(images, horizontal):
    theta = torch.tensor([[horizontal, 0.0, 0.0], [0.0, 1.0, 0.0]]).expand(images.shape[0], -1, -1)
    return F.grid_sample(images, F.affine_grid(theta, images.shape, align_corners=False), align_corners=False)


TURNS = {
    "mirrored": [
        lambda images: images.flip(-1),
        lambda images: images.flip(2),
        lambda images: images[..., torch.arange(images.shape[-1] - 1, -1, -1)],
        lambda images: by_grid(images, -1.0),
    ],
    "turned": [
        lambda images: images.rot90(1, (2, 3)),
        lambda images: images.rot90(2, (2, 3)),
        lambda images: images.transpose(2, 3),
        lambda images: images.permute(0, 1, 3, 2),
        lambda images: images.flip(2).transpose(2, 3),
    ],
}


@pytest.mark.parametrize(("how", "step"), [(how, step) for how, steps in TURNS.items() for step in steps])
def test_a_layer_that_sees_the_picture_turned_is_refused(how, step):
    network, images = classifier(step), torch.rand(1, 3, SIZE, SIZE)
    with pytest.raises(ModelError, match=f"layer 'features.4' .* sees the picture {how}, so that its map"):
        explain(network, images, "grad_cam:layer=features.4")
    for method in LAYER_METHODS:
        with pytest.raises(ModelError, match=f"sees the picture {how}|no layer's mean gives the scores"):
            explain(network, images, method)


def tiles(images):
    """The picture in 4 x 4 tiles, in an order of chance."""
    side = images.shape[-1] // 4
    parts = images.unflatten(3, (4, side)).unflatten(2, (4, side)).transpose(3, 4).flatten(2, 3)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    return parts[:, :, order].unflatten(2, (4, 4)).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def polar(images):
    radius, angle = torch.linspace(0.05, 1, SIZE), torch.linspace(-torch.pi, torch.pi, SIZE)
    grid = torch.stack([radius[:, None] * angle.cos(), radius[:, None] * angle.sin()], dim=-1)
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False)


@pytest.mark.parametrize(
    ("how", "step"),
    [
        ("in another order", tiles),
        ("in another order", polar),
        ("as frequencies", lambda images: torch.fft.fft2(images).abs().log1p()),
        ("as frequencies", lambda images: torch.fft.fftshift(torch.fft.fft2(images), dim=(2, 3)).abs().log1p()),
        ("as frequencies", lambda images: torch.view_as_real(torch.fft.rfft2(images)).flatten(3)[..., :SIZE]),
    ],
)
def test_a_layer_whose_places_are_no_grid_of_the_picture_is_refused(how, step):
    network, images = classifier(step), torch.rand(1, 3, SIZE, SIZE)
    for layer in ("features.2", "features.4"):
        with pytest.raises(ModelError, match=f"layer '{layer}' .* sees the picture {how}, so that its map"):
            explain(network, images, f"grad_cam:layer={layer}")


def filtered(images):
    """A filter in frequencies, as of GFNet: what comes back has the picture's places."""
    return torch.fft.irfft2(torch.fft.rfft2(images) * 2, s=images.shape[2:])


@pytest.mark.parametrize(
    "step", [lambda images: images, lambda images: by_grid(images, 1.0), lambda images: images * 2, filtered]
)
def test_one_that_sees_it_as_it_is_is_not(step):
    prepared = prepare(classifier(step))
    assert prepared.placement(prepared.default_layer, torch.rand(1, 3, SIZE, SIZE)) == Placement()


@pytest.mark.parametrize("method", LAYER_METHODS)
def test_the_map_of_what_is_cut_out_lies_there(method):
    """As the map of the network without the cut for what is cut out, moved to where that is."""
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    found = explain(classifier(lambda images: images[:, :, 4:-12, 8:-8]), images, method, target=1)
    alone = explain(classifier(lambda images: images, 32), images[:, :, 4:-12, 8:-8], method, target=1)
    torch.testing.assert_close(found.maps, alone.maps, atol=1e-5, rtol=1e-4)
    assert found.stride == alone.stride == (4.0, 4.0)
    assert found.offset == (6.0, 10.0)


def resized(images, side):
    return F.interpolate(images, (side, side))


CUTS = {
    "slices": (lambda images: images[:, :, 8:-8, 8:-8], (8, 8, 8, 8)),
    "one side": (lambda images: images[:, :, :32], (0, 16, 0, 0)),
    "less than nothing put around": (lambda images: F.pad(images, (-8, -4, -4, -12)), (4, 12, 8, 4)),
    "narrow": (lambda images: images.narrow(2, 8, 32).narrow(3, 12, 24), (8, 8, 12, 12)),
    "a part of three": (lambda images: images.split([8, 32, 8], dim=3)[1], (0, 0, 8, 8)),
    "chunks": (lambda images: images.chunk(2, dim=2)[1], (24, 0, 0, 0)),
    "every second": (lambda images: images[:, :, ::2, ::2], (0, 0, 0, 0)),
    "a cut of a cut": (lambda images: images[:, :, 4:-4][:, :, 4:-4], (8, 8, 0, 0)),
    "a cut of the picture resized": (lambda images: resized(images, 96)[:, :, 16:-16, 32:-32], (8, 8, 16, 16)),
    "a cut of the picture made smaller": (lambda images: resized(images, 24)[:, :, 2:-4], (4, 8, 0, 0)),
}


@pytest.mark.parametrize("what", CUTS)
@pytest.mark.parametrize("bias", [0.0, -5.0])
def test_what_a_network_cuts_off_is_followed_exactly(what, bias):
    """Whatever its ReLUs let through of one image of noise."""
    step, (above, below, left, right) = CUTS[what]
    network = classifier(step)
    network.module.features[0].bias.data.fill_(bias)
    prepared = prepare(network)
    (top, bottom), (start, end) = prepared.placement("features.4", torch.rand(1, 3, SIZE, SIZE)).seen
    expected = (above, SIZE - below, left, SIZE - right)
    assert [SIZE * share for share in (top, bottom, start, end)] == pytest.approx(expected)
    if bias == 0.0:  # no pixel beside it has a gradient
        images = torch.rand(1, 3, SIZE, SIZE).requires_grad_()
        network.module.features(step(images)).sum().backward()
        seen = images.grad.abs().sum(dim=(0, 1)) > 0
        assert not seen[:above].any()
        assert not seen[SIZE - below :].any()
        assert not seen[:, :left].any()


def on_a_canvas(images):
    canvas = images.new_full((len(images), 3, 64, SIZE), 0.5)
    canvas[:, :, 4:-12] = images
    return canvas


FRAMES = {
    "as a canvas": (on_a_canvas, (4, 12, 0, 0)),
    "on two sides": (lambda images: F.pad(images, (8, 8, 0, 0)), (0, 0, 8, 8)),
    "up to a multiple": (lambda images: F.pad(images, (0, 16, 0, 16)), (0, 16, 0, 16)),
    "of what lies there": (lambda images: F.pad(images, (0, 0, 12, 4), mode="reflect"), (12, 4, 0, 0)),
    "of the picture resized": (lambda images: F.pad(resized(images, 64), (0, 0, 16, 16)), (12, 12, 0, 0)),
    "that a convolution takes back": (
        lambda images: F.conv2d(F.pad(images, (2,) * 4), torch.ones(3, 3, 5, 5)),
        (0,) * 4,
    ),
    "that a cut of features takes back": (
        lambda images: F.max_pool2d(F.pad(images, (8, 8, 8, 8)), 4)[:, :, 2:-2, 2:-2],
        (0,) * 4,
    ),
    "that a cut of features takes back in part": (
        lambda images: F.max_pool2d(F.pad(images, (0, 0, 8, 8)), 4)[:, :, 1:],
        (4, 8, 0, 0),
    ),
    "that a pooling takes back": (lambda images: F.max_pool2d(F.pad(images, (0, 1, 0, 1)), 3, 2), (0,) * 4),
}


@pytest.mark.parametrize("what", FRAMES)
def test_what_a_network_puts_around_the_picture_is_followed_too(what):
    step, (above, below, left, right) = FRAMES[what]
    (top, bottom), (start, end) = prepare(classifier(step)).placement("features.4", torch.rand(1, 3, SIZE, SIZE)).seen
    expected = (-above, SIZE + below, -left, SIZE + right)
    assert [SIZE * share for share in (top, bottom, start, end)] == pytest.approx(expected)


EMPTY = {
    "zeros": lambda images: torch.zeros(images.shape),
    "zeros_like": torch.zeros_like,
    "new_empty": lambda images: images.new_empty(images.shape),
}


def halves_swapped(images, empty):
    """Each half is written where the other was."""
    canvas, half = empty(images), images.shape[2] // 2
    canvas[:, :, :half] = images[:, :, half:]
    canvas[:, :, half:] = images[:, :, :half]
    return canvas


@pytest.mark.parametrize("empty", EMPTY)
def test_parts_that_are_written_where_they_were_not_are_no_frame(empty):
    with pytest.raises(ModelError, match="so that its map cannot be laid on it"):
        explain(
            classifier(lambda images: halves_swapped(images, EMPTY[empty])),
            torch.rand(1, 3, SIZE, SIZE),
            "grad_cam",
            target=1,
        )


def halves(images):
    return images[..., : SIZE // 2], images[..., SIZE // 2 :]


def written_into_channels(images):
    layers = images.new_zeros((len(images), 6, SIZE, SIZE // 2))
    layers[:, :3], layers[:, 3:] = halves(images)
    return layers


def one_by_one(images):
    return images[:, :, : SIZE // 2, : SIZE // 2] - images[:, :, SIZE // 2 :, SIZE // 2 :]


# Pairs side by side in one picture, as stereo cameras and twin networks have them, or sides that are compared.
LAID_OVER = {
    "halves as channels": lambda images: torch.cat(halves(images), dim=1),
    "halves stacked": lambda images: torch.stack(halves(images), dim=1).flatten(1, 2),
    "halves compared": lambda images: halves(images)[0] - halves(images)[1].flip(3),
    "halves written into channels": written_into_channels,
    "chunks": lambda images: torch.cat(images.chunk(2, dim=2), dim=1),
    "quarters": one_by_one,
}


@pytest.mark.parametrize(
    ("what", "method"), [(what, "grad_cam") for what in LAID_OVER] + [("chunks", method) for method in LAYER_METHODS]
)
def test_parts_that_are_laid_over_each_other_have_no_place(what, method):
    with pytest.raises(ModelError, match="sees the picture in parts that lie over each other"):
        explain(layered(LAID_OVER[what]), torch.rand(1, 3, SIZE, SIZE), method, target=1)


def layered(step) -> Classifier:
    network = Wrapped(step)
    channels = step(torch.rand(1, 3, SIZE, SIZE)).shape[1]
    network.features[0] = nn.Conv2d(channels, 8, 3, 2, 1)
    return Classifier(network.eval(), Preprocess((SIZE, SIZE)))


def beside(images):
    """Both halves by the same way, and put together again."""
    return torch.cat([half * 1.5 for half in halves(images)], dim=3)


def stacked_and_back(images):
    left, right = (torch.stack(halves(images), dim=1) * 1.5).unbind(1)
    return torch.cat([left, right], dim=3)


def shifted(images):
    return images + 0.3 * F.pad(images, (2, 0, 0, 0))[..., :-2]


@pytest.mark.parametrize("step", [beside, stacked_and_back, shifted])
def test_parts_that_are_put_together_again_do(step):
    prepared = prepare(layered(step))
    images = torch.rand(1, 3, SIZE, SIZE)
    (top, bottom), (start, end) = prepared.placement("features.2", images).seen
    assert (top, bottom, end) == (0, 1, 1)
    assert -0.05 < start <= 0


def test_the_map_of_a_picture_in_a_frame_lies_on_the_picture():
    """As that of the framed picture where the frame is the user's."""
    images = torch.rand(1, 3, 24, SIZE, generator=torch.Generator().manual_seed(1))
    inside = Classifier(Wrapped(lambda images: F.pad(images, (0, 0, 12, 12))).eval(), Preprocess((24, SIZE)))
    found = explain(inside, images, "grad_cam", target=1)
    framed = explain(classifier(lambda images: images), F.pad(images, (0, 0, 12, 12)), "grad_cam", target=1)
    torch.testing.assert_close(found.upsampled(), framed.upsampled()[:, 12:-12], atol=1e-5, rtol=1e-4)


def glimpse(images):
    """The part of each picture that is brightest."""
    rows = [int(image.mean(0).mean(1).argmax().clamp(12, SIZE - 12)) for image in images]
    parts = [image[:, row - 12 : row + 12] for row, image in zip(rows, images, strict=True)]
    return F.interpolate(torch.stack(parts), (SIZE, SIZE))


def test_a_part_that_is_another_of_each_picture_is_refused():
    network, image = classifier(glimpse), torch.rand(1, 3, SIZE, SIZE)
    for method in ("grad_cam", "grad_cam:layer=features.2", "eigen_cam"):
        with pytest.raises(
            ModelError, match="sees the picture cut out at a place that it says itself, so that its map"
        ):
            explain(network, image, method)


def around_the_object(images):
    """The pixels at least half as bright as the brightest: all of noise, and of a picture of one object that alone."""
    coarse = F.interpolate(F.avg_pool2d(images.mean(1, keepdim=True), 12), (SIZE, SIZE))
    parts = []
    for image, bright in zip(images, coarse[:, 0], strict=True):
        rows, columns = (bright >= bright.max() / 2).nonzero(as_tuple=True)
        parts.append(image[:, int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1])
    return torch.stack([F.interpolate(part[None], (SIZE, SIZE))[0] for part in parts])


@pytest.mark.parametrize("method", ["grad_cam", "grad_cam:layer=features.2", "score_cam", "eigen_cam"])
def test_a_part_that_the_network_cuts_out_of_this_very_picture_is_refused(method):
    network, images = classifier(around_the_object), torch.full((2, 3, SIZE, SIZE), 0.8)
    explain(network, images, method, target=1)
    images[1] = 0.1
    images[1, :, 12:24, 24:48] = 0.8
    with pytest.raises(ModelError, match="sees the picture cut out at a place that it says itself"):
        explain(network, images, method, target=1)


def leftwards(images):
    """Each picture so that its brighter side is the left one, as breasts are laid in mammograms."""
    return torch.stack([one.flip(-1) if one[..., :24].sum() < one[..., 24:].sum() else one for one in images])


def leftwards_at_once(images):
    darker = images[..., :24].sum((1, 2, 3), keepdim=True) < images[..., 24:].sum((1, 2, 3), keepdim=True)
    return torch.where(darker, images.flip(-1), images)


@pytest.mark.parametrize("leftwards", [leftwards, leftwards_at_once])
@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam:layer=features.2"])
def test_pictures_that_are_mirrored_by_what_they_show_are_refused(leftwards, method):
    images = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) / 2
    images[..., 30:40] += 0.5
    with pytest.raises(ModelError, match="sees the picture turned or not as it says itself, so that"):
        explain(classifier(leftwards), images, method, target=1)


def steered(images):
    """Zooms in by as much as a picture is bright, as spatial transformers do."""
    zoom = (0.9 + 0.1 * images.mean((1, 2, 3)))[:, None, None] * torch.eye(2, 3)
    return F.grid_sample(images, F.affine_grid(zoom, images.shape, align_corners=False), align_corners=False)


@pytest.mark.parametrize("step", [steered, lambda images: by_grid(images, 0.5)])
def test_that_pixels_are_taken_by_a_grid_of_its_own_is_said(step):
    found = explain(classifier(step), torch.rand(1, 3, SIZE, SIZE), "grad_cam", target=1)
    assert any("sees the picture through a grid of the network's own" in note for note in found.notes)


def wobbling(maps):
    """Samples features around where they are, as deformable convolutions do."""
    plain = F.affine_grid(torch.eye(2, 3).expand(len(maps), -1, -1), maps.shape, align_corners=False)
    return F.grid_sample(maps, plain + 0.05 * maps.mean(1)[..., None].tanh(), align_corners=False)


@pytest.mark.parametrize("step", [lambda images: images, lambda images: by_grid(images, 1.0)])
def test_but_not_of_features_around_where_they_are(step):
    class Wobbles(Wrapped):
        def forward(self, images):
            return self.head(self.features[2:](wobbling(self.features[:2](self.step(images)))).relu().mean(dim=(2, 3)))

    network = Classifier(Wobbles(step).eval(), Preprocess((SIZE, SIZE)))
    assert not explain(network, torch.rand(1, 3, SIZE, SIZE), "grad_cam", target=1).notes


def test_a_network_of_any_size_is_looked_at_in_each():
    network = Classifier(Wrapped(lambda images: images[:, :, 8:-8, 8:-8]).eval(), Preprocess(None))
    for side in (48, 96, 48):
        found = explain(network, torch.rand(1, 3, side, side), "grad_cam", target=1)
        assert (found.offset, found.stride) == ((10.0, 10.0), (4.0, 4.0))


PADDED = {
    "of the picture": (lambda images: F.pad(images, (0, 16, 0, 16))[:, :, :SIZE, :SIZE], lambda maps: maps),
    "of features": (
        lambda images: images,
        lambda maps: F.pad(maps, (0, 4, 0, 4))[:, :, : maps.shape[2], : maps.shape[3]],
    ),
    "of a longer map": (lambda images: images, lambda maps: F.avg_pool2d(F.pad(maps, (1, 1, 1, 1)), 2, 1)[..., 1:, 1:]),
}


@pytest.mark.parametrize("where", PADDED)
def test_what_takes_back_a_padding_cuts_nothing_off(where):
    before, between = PADDED[where]

    class Padded(Wrapped):
        def forward(self, images):
            found = between(self.features[:2](before(images)))
            return self.head(self.features[2:](found).relu().mean(dim=(2, 3)))

    prepared = prepare(Classifier(Padded(None).eval(), Preprocess((SIZE, SIZE))))
    assert prepared.placement("features.4", torch.rand(1, 3, SIZE, SIZE)) == Placement()


def test_without_a_gradient_a_cut_is_followed_too():
    with torch.no_grad():
        found = explain(classifier(lambda images: images[:, :, 8:-8, 8:-8]), torch.rand(1, 3, SIZE, SIZE), "eigen_cam")
    assert found.offset == (10.0, 10.0)


@pytest.mark.parametrize("method", ["captum:layer_conductance:steps=2", "captum:internal_influence:steps=2"])
def test_other_libraries_maps_lie_there_too(method):
    found = explain(classifier(lambda images: images[:, :, 8:-8, 8:-8]), torch.rand(1, 3, SIZE, SIZE), method, target=1)
    assert found.offset == (10.0, 10.0)


class Functions(nn.Module):
    """Its last layer is a function, and has no name."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.head = nn.Parameter(torch.rand(4, 3, 3, 3)), nn.Linear(4, 3)

    def forward(self, images):
        return self.head(F.conv2d(images, self.kernel).mean(dim=(2, 3)))


def test_cam_of_a_network_whose_convolutions_are_functions():
    found = explain(Classifier(Functions().eval(), Preprocess((SIZE, SIZE))), torch.rand(1, 3, SIZE, SIZE), "cam")
    assert found.maps.shape == (1, 46, 46)


class Parts(nn.Module):
    """One layer sees the picture, the other a corner of it."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.part = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, images):
        seen = self.whole(images), self.part(images[:, :, :24, :24])
        return torch.cat([values.mean(dim=(2, 3)) for values in seen], dim=1)


def test_layers_that_see_different_parts_are_not_averaged():
    network = Classifier(Parts().eval(), Preprocess((SIZE, SIZE)))
    with pytest.raises(ModelError, match="layers whole\\+part see different parts of the picture"):
        explain(network, torch.rand(1, 3, SIZE, SIZE), "grad_cam:layer=whole+part")
    found = explain(network, torch.rand(1, 3, SIZE, SIZE), "grad_cam:layer=part")
    assert found.stride == (24 / 22, 24 / 22)
