from __future__ import annotations

import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from phosphene.attribution.cam import cam
from phosphene.attribution.occlusion import occlusion
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError, OptionError
from phosphene.targets import Target, Unit
from tests.comparing import map_error
from tests.networks import DictOutput, class_convolution, classifier_of, functional_relu, linear, pooled, vgg_f
from tests.oracles import attribution as oracle


def test_equals_the_literal_formula():
    classifier, images = classifier_of(pooled()), torch.rand(2, 3, 16, 16)
    got = cam(classifier, images, Target.of([4, 0]))
    features = classifier.module[:6](classifier.preprocess.normalize(images)).detach()
    weight = classifier.module[9].weight.detach()
    expected = torch.stack([oracle.cam(features[0], weight[4]), oracle.cam(features[1], weight[0])])
    assert map_error(got.maps, expected) < 1e-5
    assert got.layer == "5"


@pytest.mark.parametrize("make", [pooled, functional_relu, class_convolution, lambda: DictOutput(pooled())])
def test_mean_and_bias_give_the_logit(make):
    classifier, images = classifier_of(make()), torch.rand(3, 3, 16, 16)
    got = cam(classifier, images, Target.of([4, 0, 2]))
    logits = classifier.logits(images)
    assert torch.allclose(got.score, logits[range(3), [4, 0, 2]], atol=1e-5)
    assert max(got.checks["logit_error"]) < 1e-5


def test_a_class_convolution_gives_its_own_channel():
    classifier, images = classifier_of(class_convolution()), torch.rand(1, 3, 16, 16)
    got = cam(classifier, images, Target.of(3))
    net = classifier.module
    expected = F.relu(net.to_classes(F.relu(net.features(classifier.preprocess.normalize(images)))))[:, 3]
    assert torch.allclose(got.maps, expected, atol=1e-6)
    assert "to_classes" in got.layer


def test_a_linear_layer_as_convolution_after_pooling():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1), nn.Flatten())
    got = cam(classifier_of(module), torch.rand(1, 3, 16, 16), Target.of(3))
    assert got.maps.shape == (1, 14, 14)
    assert max(got.checks["logit_error"]) < 1e-5


def test_versus_is_the_difference_of_two_maps():
    classifier, images = classifier_of(pooled()), torch.rand(1, 3, 16, 16)
    one, two = (cam(classifier, images, Target.of(c)) for c in (1, 3))
    both = cam(classifier, images, Target.of(1, versus=3))
    assert torch.allclose(both.maps, one.maps - two.maps, atol=1e-6)
    assert torch.allclose(both.score, one.score - two.score, atol=1e-6)


def test_binary_head_of_one_output_has_maps_of_both_classes():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    classifier = Classifier(module, Preprocess((8, 8)), ["no", "yes"], "sigmoid")
    images = torch.rand(1, 3, 8, 8)
    no, yes = (cam(classifier, images, Target.of(c)) for c in (0, 1))
    assert torch.allclose(no.maps, -yes.maps)
    assert float(yes.score) == pytest.approx(float(module(images).detach()), abs=1e-6)


def test_a_score_near_zero_may_differ_by_the_rounding_of_what_it_is_the_sum_of():
    """An undecided picture of a binary network: its only score has no digit that two sums agree in."""
    module = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1))
    images = torch.rand(1, 3, 24, 24)
    for _ in range(3):
        with torch.no_grad():
            module[-1].bias -= module(images)[0]
    for scale in (1.0, 1000.0):
        with torch.no_grad():
            module[-1].weight *= scale
            module[-1].bias *= scale
        got = cam(Classifier(module, Preprocess((24, 24)), ["no", "yes"], "sigmoid"), images, Target.of(1))
        assert float(got.maps.mean() + module[-1].bias.detach()) == pytest.approx(0, abs=1e-5 * scale)


@pytest.mark.parametrize("make", [vgg_f, linear])
def test_other_networks_are_refused_with_a_way_out(make):
    with pytest.raises(ModelError, match="use grad_cam"):
        cam(classifier_of(make()), torch.rand(1, 3, 16, 16), Target.of(1))


def test_a_hidden_nonlinearity_is_noticed():
    """Softmax or a scale after the linear layer: the map would not add up, so there is none."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.fc = nn.AvgPool2d(8), nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(self.pool(x)[:, :, 0, 0])

    with pytest.raises(ModelError):
        cam(classifier_of(Scaled()), torch.rand(1, 3, 16, 16), Target.of(1))


def test_units_and_other_scores_are_refused():
    classifier, images = classifier_of(pooled()), torch.rand(1, 3, 16, 16)
    with pytest.raises(OptionError, match="explains classes"):
        cam(classifier, images, Target(unit=Unit("0", 1)))
    with pytest.raises(OptionError, match="probability"):
        cam(classifier, images, Target.of(1, score="probability"))


class Ends(nn.Module):
    """Features of 8 channels, and an end of one's own."""

    def __init__(self, end, width: int = 8) -> None:
        super().__init__()
        self.body, self.end = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), end
        self.weight, self.bias = nn.Parameter(0.02 * torch.randn(5, width)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return self.end(self, self.body(x))


@pytest.mark.parametrize(
    ("end", "width"),
    [
        (lambda net, y: F.linear(F.avg_pool2d(y, 4).flatten(1), net.weight), 8 * 4),
        (lambda net, y: F.linear(F.avg_pool2d(y, 6).flatten(1), net.weight), 8),
        (lambda net, y: F.avg_pool2d(y, 4).flatten(1), 8),
        (lambda net, y: F.linear(F.avg_pool2d(y, 8, padding=1)[:, :, 0, 0], net.weight), 8),
        (lambda net, y: F.linear(y.mean(1).mean(1), net.weight), 8),
        (lambda net, y: F.linear(y.flatten(2, 2).mean(2).flatten(1), net.weight), 64),
        (lambda net, y: F.linear(y[:, :, 1:].mean(3).mean(1), net.weight), 7),
        (lambda net, y: F.linear(y.permute(0, 2, 3, 1).mean((2, 3)), net.weight), 8),
        (lambda net, y: F.linear(y.transpose(1, 2).mean((2, 3)), net.weight), 8),
    ],
)
def test_what_is_averaged_has_to_be_all_places_of_the_picture(end, width):
    """Small logits, as of heads that were never trained, hide the difference in the sum."""
    with pytest.raises(ModelError, match="no mean over all places of the picture gives the scores"):
        cam(classifier_of(Ends(end, width)), torch.rand(1, 3, 16, 16), Target.of(4))


WAYS = {
    "its size": lambda y: F.avg_pool2d(y, kernel_size=y.size()[2:]).flatten(1),
    "its shape": lambda y: F.avg_pool2d(y, y.shape[-2:]).flatten(1),
    "both sides": lambda y: F.avg_pool2d(y, (y.size(2), y.size(3))).flatten(1),
    "one side": lambda y: F.avg_pool2d(y, y.size(3)).flatten(1),
    "one side of its shape": lambda y: F.avg_pool2d(y, y.shape[-1]).flatten(1),
    "a list": nn.AdaptiveAvgPool2d([1, 1]),
    "mean, mean": lambda y: y.mean(3).mean(2),
    "the other way round": lambda y: y.mean(2).mean(-1),
    "kept": lambda y: y.mean(3, keepdim=True).mean(2, keepdim=True).flatten(1),
    "kept, the other way round": lambda y: torch.mean(torch.mean(y, dim=2, keepdim=True), dim=3).flatten(1),
    "as one axis": lambda y: y.flatten(2).mean(2),
    "as one axis from behind": lambda y: torch.flatten(y, start_dim=2).mean(dim=-1),
    "axis": lambda y: y.mean(axis=(2, 3)),
    "axes as numbers": lambda y: y.mean([-1, -2]),
    "a computed axis": lambda y: y.mean((2, y.dim() - 1)),
    "a computed axis and a functional layer": lambda y: F.linear(y.mean((2, y.dim() - 1)), torch.eye(8)),
    "as a column": lambda y: y.flatten(2).unsqueeze(-1).mean((2, 3)),
    "past its edge": lambda y: F.avg_pool2d(y, 99, ceil_mode=True),
    "past its edge, as a module": nn.AvgPool2d(99, ceil_mode=True),
    "channels last": lambda y: y.permute(0, 2, 3, 1).mean((1, 2)),
    "tokens": lambda y: y.flatten(2).transpose(1, 2).mean(1),
    "summed up": lambda y: y.sum((2, 3)) / y[0, 0].numel(),
    "as data have it": lambda y: y.mean((2, 3)) if bool(y.isfinite().all()) else y.amax((2, 3)),
}


class Pooling(nn.Module):
    def __init__(self, pool) -> None:
        super().__init__()
        self.body, self.pool, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), pool, nn.Linear(8, 5)

    def forward(self, x):
        y = self.pool(self.body(x))
        return self.head(y.flatten(1))


@pytest.mark.parametrize("way", WAYS)
def test_the_ways_to_average_all_places(way):
    classifier, images = classifier_of(Pooling(WAYS[way])), torch.rand(2, 3, 16, 16)
    features = classifier.module.body(classifier.preprocess.normalize(images))
    expected = torch.einsum("k,nkhw->nhw", classifier.module.head.weight[4], features)
    assert map_error(cam(classifier, images, Target.of(4)).maps, expected.detach()) < 1e-5
    if way in ("one side", "one side of its shape"):
        with pytest.raises(ModelError, match="cannot run on images of shape"):
            cam(classifier_of(Tall(WAYS[way])), torch.rand(2, 3, 32, 16), Target.of(4))


class Tokens(nn.Module):
    """A norm over channels last, and the mean of what it gives: Swin's end, and that of mixers."""

    def __init__(self, end) -> None:
        super().__init__()
        self.body, self.norm, self.head, self.end = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 5), end

    def forward(self, x):
        y = self.body(x).movedim(1, -1)
        return self.end(self, self.norm(y if self.norm.bias[0] > -1 else -y))


@pytest.mark.parametrize(
    "end",
    [
        lambda net, y: net.head(y.mean((1, 2))),
        lambda net, y: net.head(y.flatten(1, 2).mean(1)),
        lambda net, y: net.head(y.movedim(-1, 1).mean((2, 3))),
    ],
)
def test_features_with_channels_last_are_laid_on_their_places(end):
    classifier, images = classifier_of(Tokens(end)), torch.rand(2, 3, 16, 16)
    net = classifier.module
    features = net.norm(net.body(classifier.preprocess.normalize(images)).movedim(1, -1))
    expected = torch.einsum("k,nhwk->nhw", net.head.weight[4], features)
    found = cam(classifier, images, Target.of(4))
    assert found.layer == "norm"
    assert map_error(found.maps, expected.detach()) < 1e-5


@pytest.mark.parametrize(
    "end",
    [
        lambda net, y: net.head(y.mean((1, 2)).relu()),
        lambda net, y: net.head(y[:, 1:].mean((1, 2))),
        lambda net, y: net.head(y.amax((1, 2))),
        lambda net, y: net.head(y.mean((1, 2))).tanh(),
        lambda net, y: net.head(y).amax((1, 2)),
    ],
)
def test_other_ends_that_no_graph_shows_are_refused(end):
    with pytest.raises(
        ModelError, match="no class activation map: no layer's mean gives the scores of Tokens linearly"
    ):
        cam(classifier_of(Tokens(end)), torch.rand(1, 3, 16, 16), Target.of(4))


class ByBrightness(Pooling):
    """Averages dark pictures, and takes the largest of bright ones."""

    def __init__(self) -> None:
        super().__init__(None)

    def forward(self, x):
        y = self.body(x)
        return self.head(y.mean((2, 3)) if bool(x.mean() < 0.8) else y.amax((2, 3)))


def test_what_was_averaged_of_other_pictures_is_tried_at_each():
    classifier = Classifier(ByBrightness().eval())
    assert cam(classifier, torch.rand(2, 3, 16, 16), Target.of(4)).maps.shape == (2, 8, 8)
    with pytest.raises(ModelError, match="the mean of body gives other scores than ByBrightness for these pictures"):
        cam(classifier, 0.8 + 0.2 * torch.rand(2, 3, 16, 16), Target.of(4))


@pytest.mark.parametrize(
    "zero", [lambda net, y: net.head(y.amax((1, 2))), lambda net, y: net.head(net.norm(y)[:, 0, 0])]
)
def test_a_head_of_zeros_does_not_make_a_mean_of_what_is_none(zero):
    net = Tokens(zero)
    nn.init.zeros_(net.head.weight), nn.init.zeros_(net.head.bias)
    with pytest.raises(ModelError, match="no class activation map"):
        cam(classifier_of(net), torch.rand(1, 3, 16, 16), Target.of(4))


class Queries(nn.Module):
    """Learned queries that look at the picture's tokens: as many as a map has places, and none of them is one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.queries = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 16, 8))
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = self.body(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.attention(self.queries.expand(len(x), -1, -1), y, y)[0]).mean(1))


class Windows(nn.Module):
    """Tokens in the order of windows, 4 x 4 of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        y = self.body(x).permute(0, 2, 3, 1).reshape(-1, 2, 4, 2, 4, 8).transpose(2, 3).reshape(-1, 64, 8)
        return self.head(self.norm(y).mean(1))


@pytest.mark.parametrize("make", [Queries, Windows])
def test_what_is_no_place_or_in_another_order_is_no_map(make):
    with pytest.raises(ModelError, match="no class activation map"):
        cam(classifier_of(make()), torch.rand(2, 3, 16, 16), Target.of(4))


def test_a_class_convolution_of_one_output_speaks_for_both_classes():
    net = nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier, images = Classifier(net, labels=["no", "yes"], head="sigmoid"), torch.rand(2, 3, 8, 8)
    yes, no = (cam(classifier, images, Target.of(index)).maps for index in (1, 0))
    assert torch.equal(yes, -no)
    torch.testing.assert_close(yes.mean((1, 2)), net(images)[:, 0].detach())


class Tall(Pooling):
    def __init__(self, pool) -> None:
        super().__init__(pool)
        self.head = nn.Linear(16, 5)


def test_a_pool_of_the_size_of_the_map_is_one_of_all_places():
    classifier = classifier_of(Ends(lambda net, y: F.linear(F.avg_pool2d(y, 8).flatten(1), net.weight, bias=net.bias)))
    found = cam(classifier, torch.rand(2, 3, 16, 16), Target.of(4))
    assert torch.allclose(found.maps.mean((1, 2)) + classifier.module.bias[4], found.score, atol=1e-6)


def test_arguments_may_be_given_by_name():
    end = lambda net, y: F.linear(input=y.mean((2, 3)), weight=net.weight, bias=net.bias)  # noqa: E731
    classifier, images = classifier_of(Ends(end)), torch.rand(2, 3, 16, 16)
    features = classifier.module.body(classifier.preprocess.normalize(images))
    expected = torch.einsum("k,nkhw->nhw", classifier.module.weight[4], features)
    assert map_error(cam(classifier, images, Target.of(4)).maps, expected.detach()) < 1e-5


def test_a_network_that_reads_something_else_since_is_no_map_of_before(monkeypatch):
    """Past all that is watched: a variable of the environment is read where the graph was made, and no more."""
    monkeypatch.setenv("SCALE_OF_A_NETWORK", "1")
    end = lambda net, y: F.linear((y * float(os.environ["SCALE_OF_A_NETWORK"])).mean((2, 3)), net.weight)  # noqa: E731
    classifier, images = classifier_of(Ends(end)), torch.rand(2, 3, 16, 16)
    cam(classifier, images, Target.of(4))
    before = occlusion(classifier, images, Target.of(4, score="logit"), window=(4, 4), stride=(4, 4))
    monkeypatch.setenv("SCALE_OF_A_NETWORK", "-2")
    with pytest.raises(ModelError, match=r"something that changed since.*refresh\(\)"):
        cam(classifier, images, Target.of(4))
    after = occlusion(classifier, images, Target.of(4, score="logit"), window=(4, 4), stride=(4, 4))
    torch.testing.assert_close(after.maps, -2 * before.maps, rtol=1e-3, atol=1e-5)
    classifier.refresh()
    assert cam(classifier, images, Target.of(4)).score.shape == (2,)


class Pair(nn.Module):
    """Features with a linear head on their mean, and what else is made of them."""

    def __init__(self, end, head: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.head, self.end = (
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()),
            head or nn.Linear(8, 5),
            end,
        )

    def forward(self, x):
        return self.end(self, self.body(x))


ENDS = {
    "a decoder beside": lambda net, y: {"scores": net.head(y.mean((2, 3))), "mask": F.interpolate(y, scale_factor=2)},
    "a mirror beside": lambda net, y: {"scores": net.head(y.mean((2, 3))), "other": y.flip(-1)},
    "its mean laid out beside": lambda net, y: {
        "scores": net.head(y.mean((2, 3))),
        "other": y.mean((2, 3), keepdim=True) + 0 * y,
    },
    "columns before rows": lambda net, y: net.head(y.permute(0, 3, 2, 1).mean((1, 2))),
    "tokens column by column": lambda net, y: net.head(y.transpose(2, 3).flatten(2).transpose(1, 2).mean(1)),
    "sorted": lambda net, y: net.head(y.flatten(2).sort(2)[0].mean(2)),
    "rolled": lambda net, y: net.head(y.roll((2, 3), (2, 3)).mean((2, 3))),
    "mirrored": lambda net, y: net.head(y.flip(3).mean((2, 3))),
    "halves exchanged": lambda net, y: net.head(torch.cat(y.chunk(2, dim=2)[::-1], dim=2).mean((2, 3))),
    "a weight of one axis beside": lambda net, y: {
        "scores": net.head(y.mean((2, 3))),
        "gate": F.linear(y.mean((2, 3)), net.head.weight[0]),
    },
}


@pytest.mark.parametrize("end", ENDS)
def test_the_features_are_those_that_the_scores_come_from_where_they_lie(end):
    network = classifier_of(Pair(ENDS[end]))
    network.output = "scores" if "beside" in end else None
    assert_map_of_body(network)


@pytest.mark.parametrize(
    "normed", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_head_whose_weight_is_made_in_each_pass(normed):
    assert_map_of_body(classifier_of(Pair(lambda net, y: net.head(y.mean((2, 3))), normed(nn.Linear(8, 5)))))


def test_features_of_other_proportions_than_the_picture_are_the_features():
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 1)))
    network = classifier_of(nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))
    images = torch.rand(2, 3, 16, 16)
    expected = torch.einsum("k,nkhw->nhw", network.module[3].weight[4], body(network.preprocess.normalize(images)))
    assert map_error(cam(network, images, Target.of(4)).maps, expected.detach()) < 1e-5


def test_what_is_averaged_twice_is_what_was_averaged_first():
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
    pools = nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(1)
    network = classifier_of(nn.Sequential(body, *pools, nn.Flatten(), nn.Linear(8, 5)))
    images = torch.rand(2, 3, 16, 16)
    expected = torch.einsum("k,nkhw->nhw", network.module[4].weight[4], body(network.preprocess.normalize(images)))
    assert map_error(cam(network, images, Target.of(4)).maps, expected.detach()) < 1e-5


def assert_map_of_body(network):
    images, module = torch.rand(2, 3, 16, 16), network.module.eval()
    features = module.body(network.preprocess.normalize(images))
    module(images)  # (the weight as it is now)
    expected = torch.einsum("k,nkhw->nhw", module.head.weight[4], features)
    assert map_error(cam(network, images, Target.of(4)).maps, expected.detach()) < 1e-5


def test_what_a_function_made_of_weights_and_a_layer_is_named_by_the_layer():
    network = classifier_of(Pair(lambda net, y: net.head(torch.addcmul(net.head.bias[:1], y, y).mean((2, 3)))))
    found = cam(network, torch.rand(1, 3, 16, 16), Target.of(4))
    assert found.layer == "body.1 + addcmul"


def test_several_outputs_are_asked_back():
    network = classifier_of(Pair(lambda net, y: (net.head(y.mean((2, 3))), net.head(y.mean((2, 3))) * 2)))
    with pytest.raises(ModelError, match="returns several outputs"):
        cam(network, torch.rand(1, 3, 16, 16), Target.of(4))
