"""Which axis of a layer's output holds the channels follows from what the network does, not from its lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.attribution.ablation_cam import ablation_cam
from phosphene.attribution.deconvnet import deconvnet
from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.layer_saliency import layer_saliency
from phosphene.attribution.score_cam import score_cam
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError, NotFoundError, OptionError
from phosphene.graph import spatial_map
from phosphene.runtime import activations, forward, prepare
from phosphene.targets import Target, Unit
from phosphene.tasks.attributions import attribute
from tests.networks import classifier_of

TARGET = Target.of(1)


class Likely(nn.Module):
    """A pooling layer of 48 channels on 64 x 8 places: 48 x 64 has the proportions of the image, 64 x 8 has not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 48, 1), nn.AvgPool2d((1, 8))
        self.block = nn.Sequential(nn.ReLU(), nn.Identity())
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.pool(self.conv(x))).mean((2, 3)))


class Runs(nn.Module):
    """A stem of 8 channels, then whatever is given, at the layer `here`; the scores are those of all its values."""

    def __init__(self, step, here: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.here, self.step = nn.Conv2d(3, 8, 2, 2), here or nn.Identity(), step
        self.head = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.here(self.step(self.stem(x))).flatten(1))


def windows(x: Tensor) -> Tensor:
    """(N, 8, 8, 8) in windows of 4 x 4 and back, channels last, as Swin does."""
    x = x.permute(0, 2, 3, 1).reshape(len(x), 2, 4, 2, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 8)
    x = x.softmax(dim=1) + x
    return x.reshape(-1, 2, 2, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 8)


def shuffled(x: Tensor) -> Tensor:
    return x.view(len(x), 2, 4, 8, 8).transpose(1, 2).reshape(len(x), 8, 8, 8)


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def written(x: Tensor, *where: slice, shape: tuple[int, ...]) -> Tensor:
    """Into a part of what was empty."""
    found = x.new_zeros(len(x), *shape)
    found[:, *where] = x
    return found


# What happens to (N, 8, 8, 8), all axes as long as each other, and what it is then.
STEPS = {
    "as it is": (lambda x: x, "NCHW"),
    "permuted": (last, "NHWC"),
    "permuted twice": (lambda x: last(x).relu().permute(0, 3, 1, 2), "NCHW"),
    "transposed": (lambda x: x.transpose(1, 2).transpose(2, 3), "NHWC"),
    "moved": (lambda x: x.movedim(1, -1), "NHWC"),
    "einsum": (lambda x: torch.einsum("nchw,cd->nhwd", x, torch.eye(8)), "NHWC"),
    "linear": (lambda x: F.linear(last(x), torch.eye(8)), "NHWC"),
    "norm": (lambda x: F.layer_norm(last(x), (8,)), "NHWC"),
    "norm and back": (lambda x: F.layer_norm(last(x), (8,)).permute(0, 3, 1, 2), "NCHW"),
    "windows": (windows, "NHWC"),
    "shifted": (lambda x: torch.roll(last(x), (1, 1), (1, 2)), "NHWC"),
    "shuffled": (shuffled, "NCHW"),
    "added": (lambda x: x + 0.1 * last(x).permute(0, 3, 1, 2), "NCHW"),
    "gated": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), "NCHW"),
    "split and joined": (lambda x: torch.cat([part.relu() for part in x.chunk(2, dim=1)], dim=1), "NCHW"),
    "half of it": (lambda x: last(x)[..., :6], "NHWC"),
    "cropped": (lambda x: last(x)[:, :6, :6], "NHWC"),
    "padded": (lambda x: F.pad(x, (1, 1, 1, 1)), "NCHW"),
    "enlarged": (lambda x: F.interpolate(x, scale_factor=2), "NCHW"),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), "NCHW"),
    "every second": (lambda x: torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]], 1), "NCHW"),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), "NTC"),
    "channels, then tokens": (lambda x: x.flatten(2), "NCT"),
    "tokens and back": (lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(len(x), 8, 8, 8), "NCHW"),
    "tokens, channels last": (lambda x: x.flatten(2).transpose(1, 2).reshape(len(x), 8, 8, 8), "NHWC"),
    "normalized": (lambda x: F.normalize(last(x), dim=-1), "NHWC"),
    "divided by sums": (
        lambda x: last(x) / (1 + last(x).std(dim=(1, 2), keepdim=True) + last(x).logsumexp(3, True)),
        "NHWC",
    ),
    "best of": (lambda x: x - x.amax(dim=1, keepdim=True) + x.max(dim=2, keepdim=True).values, "NCHW"),
    "in place": (lambda x: last(x).contiguous().relu_().add_(1), "NHWC"),
    "written into more": (lambda x: written(x, slice(None), *[slice(1, -1)] * 2, shape=(8, 10, 10)), "NCHW"),
    "every second row written": (lambda x: written(last(x), slice(None, None, 2), shape=(16, 8, 8)), "NHWC"),
    "convolved": (lambda x: F.conv2d(last(x).permute(0, 3, 1, 2), torch.eye(8)[..., None, None]), "NCHW"),
    "its rows convolved": (lambda x: F.conv2d(last(x), torch.eye(8)[..., None, None]), "NHWC"),
}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def made(step, here: nn.Module | None = None, size: tuple[int, int] = (16, 16), **facts: object) -> Classifier:
    torch.manual_seed(0)
    module = Runs(step, here).eval()
    module(torch.rand(1, 3, *size))
    return classifier_of(module, size, **facts)


@pytest.mark.parametrize("step", STEPS)
def test_the_layout_is_followed_through_the_network(step):
    function, layout = STEPS[step]
    assert prepare(made(function)).layout("here") == layout


@pytest.mark.parametrize("step", STEPS)
def test_the_map_of_a_layer_has_its_places(step, generator):
    function, layout = STEPS[step]
    images = torch.rand(2, 3, 16, 16, generator=generator)
    classifier = made(function)
    output = activations(classifier, images, ["here"])[1]["here"]
    expected = output.movedim(layout.index("C"), 1)
    found = grad_cam(classifier, images, TARGET, layer="here").maps
    assert tuple(found.shape[1:]) == (expected.shape[2:] if len(layout) == 4 else (8, 8))
    mean = spatial_map(output, "here", images, layout).mean(dim=(2, 3))
    assert torch.allclose(mean, expected.flatten(2).mean(dim=2), atol=1e-5)


@pytest.mark.parametrize("layer", ["pool", "block", "block.0", "block.1"])
@pytest.mark.parametrize("method", [grad_cam, layer_saliency, ablation_cam, score_cam])
def test_a_likely_pair_of_axes_is_not_taken_for_places(layer, method):
    classifier = classifier_of(Likely(), (64, 64))
    result = method(classifier, torch.rand(1, 3, 64, 64), TARGET, layer=layer)
    assert result.maps.shape == (1, 64, 8)


def test_a_unit_is_a_channel_of_the_layer():
    classifier, images = classifier_of(Likely(), (64, 64)), torch.rand(1, 3, 64, 64)
    output = activations(classifier, images, ["pool"])[1]["pool"]
    score = grad_cam(classifier, images, Target(unit=Unit("pool", 40)), layer="conv").score
    assert torch.allclose(score, output[:, 40].mean(dim=(1, 2)), atol=1e-5)


def test_what_goes_into_a_layer_has_a_layout_too():
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv2d(3, 16, (1, 4), (1, 4)), nn.ReLU(), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.relu(self.conv(x)).mean((2, 3)))

    result = deconvnet(classifier_of(Last(), (16, 16)), torch.rand(1, 3, 16, 16), TARGET, to="relu")
    assert result.maps.shape == (1, 16, 4)


def test_a_norm_or_linear_layer_on_four_axes_has_channels_last():
    for layer in (nn.LayerNorm(8), nn.Linear(8, 8)):
        assert prepare(made(last, layer)).layout("here") == "NHWC"
    opaque = prepare(made(lambda x: torch.from_numpy(x.detach().numpy()), nn.LayerNorm(8)))
    assert opaque.layout("here") == "NHWC"
    opaque = prepare(made(lambda x: torch.from_numpy(x.detach().numpy()), nn.MaxPool2d(2)))
    assert opaque.layout("here") == "NCHW"


def test_the_depth_to_which_it_is_known_is_said_and_can_be_told():
    """What no operation of torch made has no layout of its own: either it cannot be mistaken, or it is asked for."""
    images = torch.rand(1, 3, 16, 16)
    hidden = {"step": lambda x: torch.from_numpy(last(x).detach().numpy())}
    with pytest.raises(ModelError, match=r"here.*layouts=\{'here': 'NHWC'\}"):
        grad_cam(made(**hidden), images, TARGET, layer="here")
    told = made(**hidden, layouts={"here": "NHWC"})
    output = activations(told, images, ["here"])[1]["here"]
    found = grad_cam(told, images, Target(unit=Unit("here", 3)), layer="here")
    assert torch.allclose(found.score, output[..., 3].mean(dim=(1, 2)), atol=1e-5)


@pytest.mark.parametrize(
    ("layouts", "kind", "message"),
    [
        ({"here": "HWCN"}, OptionError, "HWCN.*NCHW, NHWC, NTC, NCT or TNC"),
        ({"there": "NHWC"}, NotFoundError, "no layer 'there'"),
        ("NHWC", OptionError, "layouts"),
        ({"here": 4}, OptionError, "NCHW"),
        ({"here": "NHWC:1+5"}, OptionError, "NTC:1\\+5"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(layouts, kind, message):
    with pytest.raises(kind, match=message):
        made(lambda x: x, layouts=layouts)


def test_a_layout_that_does_not_fit_the_output_is_refused():
    with pytest.raises(ModelError, match=r"here.*NTC"):
        grad_cam(made(lambda x: x, layouts={"here": "NTC"}), torch.rand(1, 3, 16, 16), TARGET, layer="here")


def test_tokens_that_are_no_places_may_be_told(generator):
    """Sixteen places behind nine others would be read as 5 x 5; who put them there together may say so."""
    images = torch.rand(2, 3, 16, 16, generator=generator)

    def step(x: Tensor) -> Tensor:
        tokens = F.avg_pool2d(x, 2).flatten(2).transpose(1, 2)
        return torch.cat([tokens.flip(1)[:, :7], tokens, tokens[:, :2]], dim=1)

    told = made(step, layouts={"here": "NTC:7+2"})
    output = activations(told, images, ["here"])[1]["here"]
    places = spatial_map(output, "here", images, "NTC:7+2")
    assert torch.equal(places, output[:, 7:23].transpose(1, 2).reshape(2, 8, 4, 4))
    found = grad_cam(told, images, TARGET, layer="here")
    assert found.maps.shape == (2, 4, 4)
    assert found.notes == (
        "the 25 tokens of layer here are laid out as 4 x 4 patches, the first 7 and the last 2 left out",
    )


@pytest.mark.parametrize(("where", "layout"), [(slice(64), "NTC:0+2"), (slice(2, None), "NTC:2+0")])
def test_tokens_beside_those_that_are_written_into_what_was_empty_are_no_places(where, layout):
    found = made(lambda x: written(x.flatten(2).mT, where, shape=(66, 8)))
    assert prepare(found).layout("here") == layout


def test_a_size_that_was_never_told_is_that_of_the_images():
    module = nn.Sequential(nn.Conv2d(3, 16, 2, 2), nn.Flatten(), nn.Linear(16 * 64, 2))
    classifier = Classifier(module, Preprocess(None))
    assert grad_cam(classifier, torch.rand(1, 3, 16, 16), TARGET, layer="0").maps.shape == (1, 8, 8)


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).clamp(min=0).view(len(x), -1))


def test_a_view_of_what_gray_images_give_is_one_of_plain_layout() -> None:
    """Images of one channel are in both layouts at once, unless their strides say in which."""
    net, images = Viewed(), torch.rand(2, 1, 8, 8)
    classifier = Classifier(net, Preprocess((8, 8), mean=(0.0,), std=(1.0,)))
    assert torch.allclose(forward(classifier, images), net(images), atol=1e-6)


class Patched(nn.Module):
    """A vision transformer without a block: patches of any shape, the class's token before them, registers behind."""

    def __init__(self, patch: tuple[int, int], registers: int = 0) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 8, patch, patch), nn.LayerNorm(8), nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.token, self.registers = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, registers, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        tokens = self.norm(torch.cat([tokens, self.registers.expand(len(x), -1, -1)], 1))
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0])[:, 0])


@pytest.mark.parametrize("patch", [(4, 16), (16, 4), (32, 2)])
def test_patches_that_are_not_square_are_laid_out_by_their_own_sides_or_refused(patch):
    """16 tokens of a square picture need not be 4 x 4 of it."""
    network, images = Classifier(Patched(patch).eval(), Preprocess((32, 32))), torch.rand(2, 3, 32, 32)
    found = grad_cam(network, images, TARGET)
    assert (found.layer, found.maps.shape[1:]) == ("patch", (32 // patch[0], 32 // patch[1]))
    for method in ("grad_cam:layer=norm", "eigen_cam:layer=norm", "attention_rollout"):
        with pytest.raises(ModelError, match="sees the picture as patches that are not square"):
            attribute(network, images, 1, method)


@pytest.mark.parametrize("size", [(32, 32), (16, 64)])
def test_square_patches_are_laid_out_with_registers_behind_those_of_the_class(size):
    prepared = prepare(Classifier(Patched((8, 8), 4).eval(), Preprocess(size)))
    assert (prepared.default_layer, prepared.layout("norm")) == ("norm", "NTC:1+4")
    assert grad_cam(prepared, torch.rand(1, 3, *size), TARGET).maps.shape[1:] == (size[0] // 8, size[1] // 8)
