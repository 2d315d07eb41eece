"""Relevance propagation: against its formulas written out layer by layer, against zennit, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene import Classifier, ModelError, OptionError, Preprocess, ScoreFunction, Target, Unit, attribute
from phosphene.attribution.attn_lrp import attn_lrp
from phosphene.attribution.lrp import lrp, propagated
from phosphene.relevance import Box, Composite, Epsilon, Gamma
from tests.networks import MEAN, STD, classifier_of, pooled, smooth, vgg_f
from tests.transformers import FORMS, VisionTransformer

COMPOSITES = (
    "epsilon",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
)
EPSILON = 1e-6


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))


def dense_layers() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def as_matrix(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(weights (inputs, outputs), bias (outputs)) of a linear layer on one image of a shape, in float64."""
    layer = layer.double()
    inputs = torch.Size(shape).numel()
    bias = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    rows = layer(torch.eye(inputs, dtype=torch.float64).view(inputs, *shape)).flatten(1) - bias
    return rows.detach(), bias.detach()


def stable(values: Tensor) -> Tensor:
    return torch.where(values < 0, values - EPSILON, values + EPSILON)


def share(products: Tensor, bias: Tensor, relevance: Tensor) -> Tensor:
    """Relevance (outputs) shared out over inputs by products (inputs, outputs)."""
    return (products / stable(products.sum(dim=0) + bias) * relevance).sum(dim=1)


def literal(
    rule: str, x: Tensor, weight: Tensor, bias: Tensor, relevance: Tensor, ends: tuple[Tensor, Tensor]
) -> Tensor:
    """One layer of each rule, written out as a matrix."""
    products = x[:, None] * weight
    if rule == "epsilon":
        return share(products, bias, relevance)
    if rule == "plus":
        return share(products.clamp(min=0), bias.clamp(min=0), relevance)
    if rule == "alpha2_beta1":
        positive = share(products.clamp(min=0), bias.clamp(min=0), relevance)
        return 2 * positive - share(products.clamp(max=0), bias.clamp(max=0), relevance)
    if rule == "gamma":
        output = products.sum(dim=0) + bias
        up = share(products + 0.25 * products.clamp(min=0), bias + 0.25 * bias.clamp(min=0), relevance * (output > 0))
        down = share(products + 0.25 * products.clamp(max=0), bias + 0.25 * bias.clamp(max=0), relevance * (output < 0))
        return up + down
    if rule == "box":
        low, high = (end[:, None] for end in ends)
        taken = products - low * weight.clamp(min=0) - high * weight.clamp(max=0)
        return share(taken, bias - bias.clamp(min=0) - bias.clamp(max=0), relevance)
    assert rule == "flat"
    return share((weight != 0).double(), torch.zeros_like(bias), relevance)


RULES = {
    "epsilon": ("epsilon", "epsilon"),
    "epsilon_plus": ("plus", "plus"),
    "epsilon_plus_flat": ("flat", "plus"),
    "epsilon_alpha2_beta1": ("alpha2_beta1", "alpha2_beta1"),
    "epsilon_alpha2_beta1_flat": ("flat", "alpha2_beta1"),
    "epsilon_gamma_box": ("box", "gamma"),
}


@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_composite_is_its_formula(composite, images):
    net = dense_layers()
    found = lrp(classifier_of(net, (6, 6)), images, Target.of([1, 3]), composite=composite)
    first, middle = RULES[composite]
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    ends = tuple(((end - mean) / std).expand(3, 6, 6).flatten() for end in (0.0, 1.0))
    net = net.double()
    for index, goal in enumerate((1, 3)):
        x = (images[index].double() - mean) / std
        given, values = [], x[None]
        for layer in net:
            given.append(values[0])
            values = layer(values)
        relevance = torch.zeros(5, dtype=torch.float64)
        relevance[goal] = values[0, goal].detach()
        for place, rule in ((5, "epsilon"), (2, middle), (0, first)):
            weight, bias = as_matrix(net[place], tuple(given[place].shape))
            relevance = literal(rule, given[place].flatten().detach(), weight, bias, relevance.flatten(), ends)
        expected = relevance.view(3, 6, 6).sum(dim=0)
        assert torch.allclose(found.maps[index].double(), expected, atol=2e-5 * float(expected.abs().max()))
        assert float(found.score[index]) == pytest.approx(values[0, goal].item(), rel=1e-5)


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_without_biases_the_map_adds_up_to_the_score(composite, images):
    found = lrp(classifier_of(dense_layers(), (6, 6)), images, Target.of(1), composite=composite, biases="none")
    # Up to what units get that only their bias made active: there is nothing to share it out over.
    assert max(found.checks["conservation_error"]) < 1e-5
    kept = found.maps.sum(dim=(1, 2)) + torch.tensor(found.checks["lost"])
    assert torch.allclose(kept, found.score, rtol=1e-4)
    for layer in (net := dense_layers()):
        if getattr(layer, "bias", None) is not None:
            layer.bias.data.zero_()
    found = lrp(classifier_of(net, (6, 6)), images, Target.of(1), composite=composite)
    assert torch.allclose(found.maps.sum(dim=(1, 2)), found.score, rtol=1e-3)


class Residual(nn.Module):
    """Batch norms behind convolutions and alone, in-place activations, sums in place, functions for modules."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.inplace = inplace
        self.stem, self.one, self.two = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
        self.head = nn.Linear(4, 5)
        for norm in self.norms:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(F.pad(x, (0, 1, 0, 1)))), inplace=self.inplace)
        y = self.norms[1](self.one(x))
        if self.inplace:
            y.relu_()
            y = self.two(y)
            y += x
        else:
            y = self.two(F.relu(y)) + x
        y = F.max_pool2d(F.relu6(self.norms[2](y)), 2)
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


@pytest.mark.parametrize("composite", COMPOSITES)
def test_functions_and_work_in_place_are_seen(composite):
    images = torch.rand(2, 3, 9, 9)
    plain, in_place = (
        lrp(classifier_of(Residual(inplace).eval(), (9, 9)), images, Target.of(2), composite=composite)
        for inplace in (False, True)
    )
    assert torch.allclose(plain.maps, in_place.maps, atol=1e-6 * float(plain.maps.abs().max()))
    assert max(plain.checks["conservation_error"]) < 1e-4
    assert bool(plain.maps.any())


def test_a_batch_norm_is_folded_into_the_layer_before_it(images):
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    tail = [nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)]
    folded = nn.utils.fusion.fuse_conv_bn_eval(convolution.eval(), norm.eval())
    for composite in COMPOSITES:
        one, other = (
            lrp(classifier_of(nn.Sequential(*head, *tail), (6, 6)), images, Target.of(1), composite=composite)
            for head in ((convolution, norm), (folded,))
        )
        assert torch.allclose(one.maps, other.maps, atol=1e-4 * float(one.maps.abs().max()))


def test_without_an_epsilon_what_is_nothing_gets_nothing(images):
    """Where a picture is black, as a network without biases sees it."""
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.ReLU(), nn.Flatten()]
    classifier = Classifier(nn.Sequential(*layers, nn.Linear(16, 5, bias=False)), Preprocess((6, 6)))
    half = images.clone()
    half[..., :4] = 0
    found = lrp(classifier, half, Target.of(1), composite="epsilon", epsilon=0)
    assert not found.maps[..., :4].any()
    assert torch.allclose(found.maps.sum(dim=(1, 2)), found.score, rtol=1e-3)


class NormOfTokens(nn.Module):
    """A linear layer along the tokens of a picture, and a norm of their channels, of which there are as many."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.along, self.norm, self.last = (
            nn.Conv2d(3, 4, 3, 3),
            nn.Linear(4, 4),
            nn.BatchNorm1d(4),
            nn.Linear(4, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.along(self.first(x).relu().flatten(2))).relu()
        return self.last(tokens.mean(dim=2))  # type: ignore[no-any-return]


def behind_a_transposed_convolution() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, 2), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 5))


@pytest.mark.parametrize("make", [behind_a_transposed_convolution, NormOfTokens])
def test_a_norm_scales_the_channels_that_are_its_own(make, images):
    """Of a network of ReLUs the epsilon rule without an epsilon is gradient times input."""
    torch.manual_seed(0)
    network = make()
    norm = next(child for child in network.modules() if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d))
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 5)
    nn.init.uniform_(norm.weight, 0.1, 3)
    classifier = classifier_of(network.eval(), (6, 6))
    found = lrp(classifier, images, Target.of(1), composite="epsilon", epsilon=0)
    pixels = classifier.preprocess.normalize(images).requires_grad_()
    (gradient,) = torch.autograd.grad(network(pixels)[:, 1].sum(), pixels)
    expected = (gradient * pixels.detach()).sum(dim=1)
    assert torch.allclose(found.maps, expected, atol=1e-4 * float(expected.abs().max()))


class Normalizing(nn.Module):
    """A network that normalizes its pictures itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - 0.45) / 0.22)  # type: ignore[no-any-return]


def test_the_box_rule_is_refused_where_the_first_layer_sees_no_pixels(images):
    bare = Classifier(Normalizing(dense_layers()), Preprocess((6, 6)))
    with pytest.raises(
        ModelError, match=r"pixels of 0 to 1, and it sees -2\.\d+ to 2\.\d+: .* use composite=epsilon_plus_flat"
    ):
        lrp(bare, images, Target.of(1))
    assert lrp(bare, images, Target.of(1), composite="epsilon_plus_flat").maps.isfinite().all()
    with pytest.raises(ModelError, match="are normalized in the network or were before; let a Preprocess do that"):
        attribute(Classifier.of(dense_layers()), (images - 0.45) / 0.22, 1, "lrp")
    told = Classifier(dense_layers(), Preprocess((6, 6), None, (0.45,) * 3, (0.22,) * 3))
    assert attribute(told, images, 1, "smoothgrad(lrp):samples=2").maps.isfinite().all()


def test_a_unit_and_one_class_versus_another(images):
    classifier = classifier_of(dense_layers(), (6, 6))
    one, other, both = (
        lrp(classifier, images, target, composite="epsilon")
        for target in (Target.of(1), Target.of(2), Target.of(1, versus=2))
    )
    assert torch.allclose(one.maps - other.maps, both.maps, atol=1e-5)
    found = lrp(classifier, images, Target(unit=Unit("2", 1)), composite="epsilon", biases="none")
    assert torch.allclose(found.maps.sum(dim=(1, 2)), found.score, atol=0.5)
    with pytest.raises(OptionError, match="of no probability"):
        lrp(classifier, images, Target.of(1, score="probability"))
    with pytest.raises(OptionError, match=r"epsilon=-1.* must be 0 or more"):
        lrp(classifier, images, Target.of(1), epsilon=-1)


class Gate(nn.Module):
    """What a step without a rule does, between two layers that have one."""

    def __init__(self, step: Any) -> None:
        super().__init__()
        self.first, self.step, self.last = nn.Conv2d(3, 4, 3), step, nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.step(self.first(x)).flatten(1))  # type: ignore[no-any-return]


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@pytest.mark.filterwarnings("ignore:Gate draws random numbers")
@pytest.mark.parametrize(
    ("step", "named"),
    [
        (lambda x: x * x.sigmoid(), "Mul"),
        (lambda x: x.softmax(dim=1), "Softmax"),
        (lambda x: x.exp(), "Exp"),
        (lambda x: x / x.norm(dim=1, keepdim=True), "Div|LinalgVectorNorm|Norm"),
        (nn.GroupNorm(2, 4), "NativeGroupNorm"),
        (nn.LayerNorm(4), "NativeLayerNorm"),
        (lambda x: torch.einsum("nchw,nchw->nchw", x, x), "Mul|Bmm|SumBackward1"),
        (lambda x: x**2, "Pow"),
        (lambda x: Own.apply(x), "Own"),
        (lambda x: F.dropout(x, 0.5, training=True), "NativeDropout|Mul"),
        (lambda x: F.batch_norm(x, None, None, training=True), "NativeBatchNorm|BatchNorm"),
    ],
    ids=[
        "gate",
        "softmax",
        "exp",
        "normalized",
        "group_norm",
        "layer_norm",
        "einsum",
        "pow",
        "own",
        "dropout",
        "batch",
    ],
)
def test_a_step_without_a_rule_is_refused_by_name(step, named, images):
    with pytest.raises(ModelError, match=f"no relevance rule for the step ({named}) of"):
        lrp(classifier_of(Gate(step).eval(), (6, 6)), images, Target.of(1), composite="epsilon_plus")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_has_no_layers_is_refused_by_name(images):
    with pytest.raises(ModelError, match="a function of pictures"):
        attribute(ScoreFunction(lambda x: x.mean((2, 3))), images, 1, "lrp")
    scripted = torch.jit.trace(dense_layers(), images)
    with pytest.raises(ModelError, match="TorchScript"):
        attribute(Classifier(scripted, Preprocess((6, 6))), images, 1, "lrp")
    with pytest.raises(ModelError, match=r"no relevance rule for the step \w+ of layer '"):
        attribute(classifier_of(VisionTransformer()), torch.rand(1, 3, 16, 16), 1, "lrp")


@pytest.mark.parametrize("network", [vgg_f, pooled, smooth])
def test_same_as_zennit(network):
    """zennit's own composites; nothing is lost but rounding, batch norms folded as it does."""
    composites = pytest.importorskip("zennit.composites", reason="zennit is not installed", exc_type=ImportError)
    canonizers = pytest.importorskip("zennit.canonizers", reason="zennit is not installed", exc_type=ImportError)
    net, images = network().eval(), torch.rand(2, 3, 16, 16)
    classifier = classifier_of(net)
    normalize = classifier.preprocess.normalize
    ends = {"low": normalize(torch.zeros(1, 3, 1, 1)), "high": normalize(torch.ones(1, 3, 1, 1))}
    for name in COMPOSITES[1:]:
        found = lrp(classifier, images, Target.of(1), composite=name)
        composite = composites.COMPOSITES[name](
            canonizers=[canonizers.SequentialMergeBatchNorm()], **(ends if name.endswith("box") else {})
        )
        leaf = normalize(images).requires_grad_()
        with composite.context(net) as hooked:
            scores = hooked(leaf)
            start = torch.zeros_like(scores)
            start[:, 1] = scores[:, 1].detach()
            (expected,) = torch.autograd.grad(scores, leaf, start)
        expected = expected.sum(dim=1)
        assert torch.allclose(found.maps, expected, atol=2e-5 * float(expected.abs().max()))


def attn_by_hand(net: VisionTransformer, x: Tensor, goal: int, gamma: float, gamma_convolution: float) -> Tensor:
    """(C, H, W) relevance of normalized pixels, each step of the transformer written out backward, in float64."""

    def dense(layer: Any, x: Tensor, relevance: Tensor, raise_by: float) -> Tensor:
        """The gamma rule of x @ weight + bias, token by token."""
        found = torch.zeros_like(x)
        weight = layer.weight.flatten(1)  # (outputs, inputs)
        for row in range(len(x)):
            products = x[row][None] * weight  # (outputs, inputs)
            for sign in (1, -1):
                raised = products + raise_by * (sign * products).clamp(min=0) * sign
                bias = layer.bias + raise_by * (sign * layer.bias).clamp(min=0) * sign
                total = stable(raised.sum(dim=1) + bias)
                chosen = relevance[row] * (sign * (products.sum(dim=1) + layer.bias) > 0)
                found[row] += (raised / total[:, None] * chosen[:, None]).sum(dim=0)
        return found

    def norm(layer: nn.LayerNorm, x: Tensor, relevance: Tensor) -> Tensor:
        width = x.shape[-1]
        spread = (x.var(dim=-1, correction=0, keepdim=True) + layer.eps).sqrt()
        output = (x - x.mean(dim=-1, keepdim=True)) / spread * layer.weight + layer.bias
        slope = relevance / stable(output) * layer.weight / spread
        return x * (slope - slope.sum(dim=-1, keepdim=True) / width)

    cells = net.patches(x[None]).shape[-2:]
    cuts = x.unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).reshape(cells[0] * cells[1], -1)
    patches = cuts @ net.patches.weight.flatten(1).T + net.patches.bias
    tokens = torch.cat([net.token[0], patches])
    x = tokens + net.position[0]
    kept = []
    for block in net.blocks:
        inner, heads = block.attention.inner, block.attention.heads
        entered, given = x, block.norm1(x)
        joined = given @ inner.in_proj_weight.T + inner.in_proj_bias
        query, key, value = (part.reshape(len(x), heads, -1).transpose(0, 1) for part in joined.chunk(3, dim=-1))
        products = query @ key.transpose(-2, -1)
        scaled = products * query.shape[-1] ** -0.5
        weights = scaled.softmax(dim=-1)
        mixed = weights @ value
        flat = mixed.transpose(0, 1).reshape(len(x), -1)
        attended = inner.out_proj(flat)
        between = entered + attended
        normed = block.norm2(between)
        hidden = block.mlp[0](normed)
        active = block.mlp[1](hidden)
        out = block.mlp[2](active)
        x = between + out
        kept.append((entered, given, joined, query, key, value, products, scaled, weights, mixed, flat, attended,
                     between, normed, active, out, x))  # fmt: skip
    last = net.norm(x)
    scores = net.head(last[0])
    start = torch.zeros_like(scores)
    start[goal] = scores[goal]
    relevance = torch.zeros_like(last)
    relevance[:1] = dense(net.head, last[:1], start[None], gamma)
    relevance = norm(net.norm, x, relevance)
    for block, (entered, given, _, query, key, value, products, scaled, weights, mixed, flat, attended, between,
                normed, active, out, whole) in zip(reversed(net.blocks), reversed(kept), strict=True):  # fmt: skip
        inner = block.attention.inner
        by_mlp, relevance = out / stable(whole) * relevance, between / stable(whole) * relevance
        by_mlp = dense(block.mlp[2], active, by_mlp, gamma)
        by_mlp = dense(block.mlp[0], normed, by_mlp, gamma)
        relevance = relevance + norm(block.norm2, between, by_mlp)
        by_heads, relevance = attended / stable(between) * relevance, entered / stable(between) * relevance
        by_heads = dense(inner.out_proj, flat, by_heads, gamma)
        by_heads = by_heads.reshape(len(flat), block.attention.heads, -1).transpose(0, 1)
        half = by_heads / stable(mixed) / 2
        of_weights, of_values = weights * (half @ value.transpose(-2, -1)), value * (weights.transpose(-2, -1) @ half)
        of_scaled = scaled * (of_weights - weights * of_weights.sum(dim=-1, keepdim=True))
        half = of_scaled * scaled / stable(scaled) / stable(products) / 2
        of_query, of_key = query * (half @ key), key * (half.transpose(-2, -1) @ query)
        of_joined = torch.cat([one.transpose(0, 1).reshape(len(flat), -1) for one in (of_query, of_key, of_values)], -1)

        class Projection:
            weight, bias = inner.in_proj_weight, inner.in_proj_bias

        relevance = relevance + norm(block.norm1, entered, dense(Projection, given, of_joined, gamma))
    relevance = tokens / stable(tokens + net.position[0]) * relevance
    of_cuts = dense(net.patches, cuts, relevance[1:], gamma_convolution)
    return of_cuts.reshape(*cells, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, cells[0] * 4, cells[1] * 4)


@pytest.mark.parametrize("form", FORMS)
def test_attn_lrp_is_its_rules_written_out(form):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    net = VisionTransformer(form)
    found = attn_lrp(classifier_of(net), images, Target.of(2))
    x = Preprocess((16, 16), None, MEAN, STD).normalize(images)[0].double()
    with torch.no_grad():
        expected = attn_by_hand(net.double(), x, 2, 0.05, 0.25).sum(dim=0)
    assert torch.allclose(found.maps[0].double(), expected, atol=1e-3 * float(expected.abs().max()))
    assert found.checks["conservation_error"][0] < 1e-3


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_what_comes_to_a_frame_around_the_picture_is_counted_as_lost(images, composite, value):
    class Framed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.pad(x, (1, 2, 3, 0), value=value))

    net = Framed(*dense_layers()[:4], nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
    found = lrp(classifier_of(net), images, Target.of(2), composite=composite)
    assert max(found.checks["conservation_error"]) < 1e-3


@pytest.mark.parametrize("hook", [lambda g: 0.1 * g, lambda g: g / g.norm(), torch.neg])
def test_hooks_for_gradients_are_none_for_relevance(hook):
    class Hooked(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            first, second, *others = self
            values = second(first(x))
            if values.requires_grad:
                values.register_hook(hook)
            for layer in others:
                values = layer(values)
            return values

    images = torch.rand(2, 3, 6, 6)
    plain = dense_layers()
    expected = attribute(classifier_of(plain), images, 1, "lrp")
    found = attribute(classifier_of(Hooked(*plain)), images, 1, "lrp")
    torch.testing.assert_close(found.maps, expected.maps)
    assert max(found.checks["conservation_error"]) < 1e-3


def test_the_box_of_a_mean_picture_is_that_of_each_pixel(images):
    """As if the picture of means were taken off by hand, from the picture and from what a pixel could have been."""
    mean = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(5))
    network = dense_layers()
    found = lrp(Classifier(network, Preprocess((6, 6), None, mean)), images, Target.of(1))
    rules = Composite(Gamma(0.25), Epsilon(EPSILON), Box(-mean[None], 1 - mean[None]))
    bare = Classifier(network, Preprocess((6, 6)))
    expected = propagated(bare, images - mean, Target.of(1), rules)
    torch.testing.assert_close(found.maps, expected.maps)
