"""Which layer is looked at unless told otherwise: the last one whose places still matter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError
from phosphene.graph import spatial_size
from phosphene.runtime import prepare
from phosphene.tasks.attributions import explain
from tests.networks import Constant, classifier_of, pooled, vgg_f


class Block(nn.Module):
    """A transformer block without a softmax: norm, mixing of the tokens, norm, a linear layer."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.mix = nn.Linear(tokens, tokens)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Tokens of 4 x 4 patches after a class token; the class token alone, or the mean of the others, is read."""

    def __init__(self, read: str = "class", cells: tuple[int, int] = (4, 4)) -> None:
        super().__init__()
        self.read = read
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.blocks = nn.Sequential(*(Block(8, cells[0] * cells[1] + 1) for _ in range(2)))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)))
        return self.head(x[:, 0] if self.read == "class" else x[:, 1:].mean(dim=1))


class ChannelsLast(nn.Module):
    """Ends in a norm over channels that come last, as Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.patches(x).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


class SideBranch(nn.Module):
    """A layer with places that runs last and has no say in the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 5)
        self.aside = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        return self.head(x.mean(dim=(2, 3))), self.aside(x)


class HeadsByTokens(nn.Module):
    """Heads by tokens (N, 8, 16, 1): the proportions of no map, but near enough, as relative positions in CoaT."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 16, 8, 1).transpose(1, 2)


class Folded(nn.Module):
    """Ends in a block whose last step lays tokens out by heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.fold = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), HeadsByTokens()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.fold(x).transpose(1, 2).reshape(len(x), 16, 8).mean(dim=1))


class Positions(nn.Module):
    """Weights of places, which no picture changes, as the positions of YOLOS for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.rand(1, 16, 4, 4))

    def forward(self) -> Tensor:
        return self.weights.sin()


class Weighed(nn.Module):
    """Of all that has places nobody sees what its axes are; the last is no part of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.windows, self.positions = Windows(), Positions()

    def forward(self, x: Tensor) -> Tensor:
        return (self.windows(x) * self.positions()).mean(dim=(2, 3))


class Windows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1].expand(-1, 16, -1, -1).unfold(2, 4, 4)[..., 0].unfold(3, 4, 4)[..., 0]


class Local(Transformer):
    """Looks once more at the patches behind the last mixing, where the class token is no part of it, as CoaT."""

    def __init__(self) -> None:
        super().__init__()
        self.local = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], dim=1))
        x = torch.cat([x[:, :1], x[:, 1:] + self.local(x[:, 1:])], dim=1)
        return self.head(self.norm(x)[:, 0])


def without_norm() -> nn.Module:
    """The mean of what the last block hands on, as BEiT's: a norm inside of it sees a part of that alone."""
    module = Transformer("mean")
    module.norm = nn.Identity()
    return module


def default(module: nn.Module, size: tuple[int, int] = (16, 16)) -> str:
    return prepare(classifier_of(module, size)).default_layer


@pytest.mark.filterwarnings("ignore:Sequential returns probabilities")
@pytest.mark.parametrize(
    ("module", "layer"),
    [
        (pooled(), "5"),
        (vgg_f(), "5"),
        (SideBranch(), "features"),
        (ChannelsLast(), "norm"),
        # What follows the last mixing reaches the class token alone.
        (Transformer("class"), "blocks.1.norm1"),
        (Transformer("mean"), "norm"),
        (Local(), "blocks.1.norm1"),
        (without_norm(), "blocks"),
        (Folded(), "norm"),
        (Weighed(), "windows"),
        (Constant(), "conv"),
        (nn.Sequential(pooled(), nn.Softmax(dim=1)), "0.5"),
    ],
)
def test_the_last_layer_whose_places_reach_the_scores(module, layer):
    assert default(module.eval()) == layer


def test_tall_and_wide_images():
    assert default(Transformer("class", (2, 6)), (8, 24)) == "blocks.1.norm1"
    assert default(ChannelsLast(), (24, 8)) == "norm"


def test_a_network_without_places_says_so():
    with pytest.raises(ModelError, match=r"no layer of Sequential has an output with places: .*saliency"):
        default(nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 5)))


def test_a_grid_of_other_proportions_is_taken_where_there_is_none_like_the_image():
    squeezed = nn.Sequential(nn.Conv2d(3, 4, (1, 16)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert default(squeezed) == "0"


def test_it_works_for_weights_of_half_precision_and_inside_no_grad():
    with torch.inference_mode():
        assert default(pooled().half()) == "5"
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert default(Transformer("class")) == "blocks.1.norm1"


def test_a_size_that_was_never_told_is_asked_for():
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 2))
    with pytest.raises(ModelError, match="its Preprocess names no size, give the one it was made for"):
        prepare(Classifier(module)).default_layer  # noqa: B018
    assert prepare(Classifier(module, Preprocess((8, 8)))).default_layer == "0"


@pytest.mark.parametrize(
    ("shape", "size", "grid"),
    [
        ((64, 7, 7), (224, 224), (7, 7)),
        ((7, 7, 64), (224, 224), (7, 7)),
        ((7, 7, 7), (224, 224), (7, 7)),
        ((64, 7, 10), (224, 320), (7, 10)),
        ((7, 10, 64), (224, 320), (7, 10)),
        ((197, 192), (224, 224), (14, 14)),
        ((201, 192), (224, 224), (14, 14)),
        ((3, 197, 64), (224, 224), None),
        ((512, 1, 1), (224, 224), None),
        ((512,), (224, 224), None),
    ],
)
def test_the_grid_of_a_shape(shape, size, grid):
    assert spatial_size(shape, size) == grid


class Latents(nn.Module):
    """Learned queries that look at the picture, by attention in one operation or in three."""

    def __init__(self, count: int, weights: bool, patch: int) -> None:
        super().__init__()
        self.patches, self.queries = nn.Conv2d(3, 8, patch, patch), nn.Parameter(torch.randn(1, count, 8))
        self.look = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp, self.head, self.weights = nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 4), weights

    def forward(self, x: Tensor) -> Tensor:
        tokens, queries = self.patches(x).flatten(2).transpose(1, 2), self.queries.expand(len(x), -1, -1)
        found, _ = self.look(queries, tokens, tokens, need_weights=self.weights)
        return self.head(self.mlp(queries + found).mean(1))


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("count", [4, 16])
def test_learned_queries_are_no_places(count: int, weights: bool) -> None:
    prepared = prepare(Classifier(Latents(count, weights, 4).eval(), Preprocess((32, 32))))
    assert prepared.default_layer == "patches"


class Perceiver(nn.Module):
    """Learned queries that look at the pixels behind a linear layer: no map but that of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels, self.queries = nn.Linear(3, 8), nn.Parameter(torch.randn(1, 16, 8))
        self.mlp, self.head = nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens, queries = self.pixels(x.flatten(2).transpose(1, 2)), self.queries.expand(len(x), -1, -1)
        found = (queries @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return self.head(self.mlp(queries + found).mean(1))


class Repeats(nn.Module):
    """Pictures of one channel, which it repeats for a body of three."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.body = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.repeat(1, 3, 1, 1) - self.mean).mean((2, 3))


def test_channels_that_were_never_told_are_asked_for_too():
    with pytest.raises(ModelError, match=r"with a mean for each channel that it takes \(now 3\)"):
        prepare(Classifier(Repeats())).default_layer  # noqa: B018
    assert prepare(Classifier(Repeats(), Preprocess((8, 8), None, (0,), (1,)))).default_layer == "body"


def test_pixels_go_before_learned_queries() -> None:
    assert prepare(Classifier(Perceiver().eval(), Preprocess((16, 16)))).default_layer == "pixels"


class Pruned(nn.Module):
    """Keeps the tokens that weigh most, or all of them in another order."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.patches, self.norm, self.head, self.kept = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 4), kept

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        chosen = tokens.square().sum(2).topk(self.kept, dim=1).indices
        return self.head(self.norm(tokens.gather(1, chosen[..., None].expand(-1, -1, 8))).mean(1))


def test_tokens_that_were_picked_out_have_no_grid() -> None:
    assert prepare(Classifier(Pruned(16).eval(), Preprocess((32, 32)))).default_layer == "patches"
    reordered = prepare(Classifier(Pruned(64).eval(), Preprocess((32, 32))))
    with pytest.raises(ModelError, match="in another order"):
        reordered.placement("norm", torch.rand(1, 3, 32, 32))


class WithClassToken(nn.Module):
    """Keeps the tokens that weigh most beside the class's, or merges the others into those, and mixes them."""

    def __init__(self, kept: int, *, merges: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.first, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 4)
        self.token, self.kept, self.merges = nn.Parameter(torch.randn(1, 1, 8)), kept, merges
        self.mixed = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.first(torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1))
        own, places = tokens[:, :1], tokens[:, 1:]
        chosen = places.square().sum(2).topk(self.kept, dim=1).indices[..., None].expand(-1, -1, 8)
        kept = places[:, ::2].gather(1, chosen // 2) if self.merges else places.gather(1, chosen)
        others = [places[:, 1::2].scatter_reduce(1, chosen // 2, kept, "mean")] if self.merges else []
        tokens = torch.cat([own, kept, *others], dim=1)
        return self.head(self.norm(tokens + self.mixed(tokens, tokens, tokens)[0]).mean(1))


@pytest.mark.parametrize(("kept", "merges"), [(16, False), (4, False), (4, True)])
def test_nor_beside_a_class_token_nor_where_others_are_merged_into_them(kept: int, merges: bool) -> None:
    """However few they are, and however much attention makes one see all of the picture."""
    classifier = Classifier(WithClassToken(kept, merges=merges).eval(), Preprocess((32, 32)))
    assert prepare(classifier).default_layer == "first"
    with pytest.raises(ModelError, match=r"layer 'norm' .* sees the picture in another order"):
        explain(classifier, torch.rand(1, 3, 32, 32), "grad_cam", target=1, layer="norm")


class Shortened(nn.Module):
    """Goes on with fewer tokens."""

    def __init__(self, shorten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.first, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.LayerNorm(8)
        self.head, self.shorten = nn.Linear(8, 4), shorten

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.first(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(self.shorten(tokens)).mean(1))


@pytest.mark.parametrize(
    "shorten",
    [
        lambda tokens: tokens[:, ::4],
        lambda tokens: tokens[:, :16],
        lambda tokens: F.avg_pool1d(tokens.transpose(1, 2), 4).transpose(1, 2),
    ],
)
def test_fewer_tokens_that_are_no_coarser_grid_are_not_laid_out_as_one(shorten: Callable[[Tensor], Tensor]) -> None:
    classifier = Classifier(Shortened(shorten).eval(), Preprocess((32, 32)))
    with pytest.raises(ModelError, match=r"layer 'norm' .* sees the picture in another order"):
        explain(classifier, torch.rand(1, 3, 32, 32), "grad_cam", target=1, layer="norm")


def test_fewer_tokens_that_are_a_coarser_grid_are() -> None:
    def merged(tokens: Tensor) -> Tensor:
        return F.avg_pool2d(tokens.transpose(1, 2).unflatten(2, (8, 8)), 2).flatten(2).transpose(1, 2)

    classifier = Classifier(Shortened(merged).eval(), Preprocess((32, 32)))
    assert explain(classifier, torch.rand(1, 3, 32, 32), "grad_cam", target=1, layer="norm").maps.shape == (1, 4, 4)


class Weighed(nn.Module):
    """A weight for each pair of a token and a new one, by a linear layer or a convolution over tokens; and back."""

    def __init__(self, count: int, *, convolution: bool = False, back: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.first, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.LayerNorm(8)
        self.convolution = convolution
        made = [(64, count), (count, 64)] if back else [(64, count)]
        self.weights = nn.Sequential(*(nn.Conv1d(*of, 1) if convolution else nn.Linear(*of) for of in made))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.first(self.patches(x).flatten(2).transpose(1, 2))
        weighed = self.weights(tokens) if self.convolution else self.weights(tokens.transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(weighed).mean(1))


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("count", [16, 100])
def test_tokens_that_weights_make_of_all_others_are_no_places(count: int, convolution: bool) -> None:
    classifier = Classifier(Weighed(count, convolution=convolution).eval(), Preprocess((32, 32)))
    assert prepare(classifier).default_layer == "first"
    with pytest.raises(ModelError, match=r"layer 'norm' .* sees the picture as mixtures of all places"):
        explain(classifier, torch.rand(1, 3, 32, 32), "grad_cam", target=1, layer="norm")
    said = Classifier(Weighed(16).eval(), Preprocess((32, 32)), layouts={"norm": "NTC"})
    assert explain(said, torch.rand(1, 3, 32, 32), "grad_cam", target=1, layer="norm").maps.shape == (1, 4, 4)


@pytest.mark.parametrize("convolution", [False, True])
def test_as_many_as_there_were_are_again(convolution: bool) -> None:
    classifier = Classifier(Weighed(100, convolution=convolution, back=True).eval(), Preprocess((32, 32)))
    assert prepare(classifier).default_layer == "norm"
    with pytest.raises(ModelError, match=r"layer 'weights\.0' .* sees the picture as mixtures of all places"):
        explain(classifier, torch.rand(1, 3, 32, 32), "grad_cam", target=1, layer="weights.0")


class Scanned(nn.Module):
    """Goes from token to token, behind channels in another order: all of them stay, and none is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x[:, [2, 1, 0]]).flatten(2).transpose(1, 2)
        state, found = torch.zeros_like(tokens[:, 0]), []
        for place in range(tokens.shape[1]):
            state = 0.5 * state + tokens[:, place]
            found.append(state)
        return self.head(self.norm(torch.stack(found, dim=1)).mean(1))


def test_tokens_of_which_none_was_left_out_may_be_named() -> None:
    classifier = Classifier(Scanned().eval(), Preprocess((32, 32)))
    assert explain(classifier, torch.rand(1, 3, 32, 32), "grad_cam", target=1, layer="norm").maps.shape == (1, 8, 8)


def test_who_says_that_tokens_are_places_is_believed() -> None:
    classifier = Classifier(WithClassToken(4).eval(), Preprocess((32, 32)), layouts={"norm": "NTC:1+0"})
    assert explain(classifier, torch.rand(1, 3, 32, 32), "eigen_cam", layer="norm").maps.shape == (1, 2, 2)


class _Routed(nn.Module):
    """One of three experts for each picture, by how bright it is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.experts = nn.ModuleList(nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU()) for _ in range(3))
        self.fc = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        chosen = (images.mean((1, 2, 3)) * 3).long().clamp(0, 2)
        found = [self.experts[int(index)](one[None]) for index, one in zip(chosen, self.body(images), strict=True)]
        return self.fc(torch.cat(found).mean((2, 3)))


class _Picky(nn.Sequential):
    """Refuses bright pictures, by an assertion that reads values."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.mean() < 0.65
        return super().forward(images)


def test_an_image_that_the_code_refuses_says_nothing_of_its_layers() -> None:
    classifier = Classifier(_Picky(*pooled()).eval(), Preprocess((16, 16), mean=(0, 0, 0), std=(1, 1, 1)))
    plain = prepare(classifier_of(pooled())).default_layer
    assert explain(classifier, torch.rand(1, 3, 16, 16), "grad_cam", target=1).layer == plain


def test_where_experts_are_chosen_by_picture_the_default_layer_runs_for_each() -> None:
    torch.manual_seed(0)
    network = _Routed().eval()
    images = torch.rand(1, 3, 16, 16) * 0.2 + torch.tensor([0.05, 0.4, 0.75]).view(3, 1, 1, 1)
    classifier = Classifier(network, Preprocess((16, 16), mean=(0, 0, 0), std=(1, 1, 1)))
    assert prepare(classifier).default_layer == "body"
    expected = images.clone().requires_grad_()
    network(expected)[:, 1].sum().backward()
    assert expected.grad is not None
    found = explain(classifier, images, ["saliency", "grad_cam"], target=1)
    torch.testing.assert_close(found[0].maps, expected.grad.abs().amax(1))
    with pytest.raises(ModelError, match=r"layer 'experts\.1' did not run on these images"):
        explain(classifier, images, "grad_cam:layer=experts.1", target=1)
