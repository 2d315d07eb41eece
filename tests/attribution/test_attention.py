"""Methods that follow attention: against their formulas written out, for every way in which attention is written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene import Classifier, ModelError, Preprocess, ScoreFunction, Target, attribute
from phosphene.attribution.attention_relevance import attention_relevance
from phosphene.attribution.attention_rollout import attention_rollout
from phosphene.decomposed import attention, multi_head_attention
from tests.comparing import stretched
from tests.networks import MEAN, STD, classifier_of, pooled
from tests.transformers import FORMS, VisionTransformer


def attention_by_hand(net: VisionTransformer, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(logits, the attention weights (N, heads, T, T) of each layer), written out."""
    x = net.patches(x).flatten(2).transpose(1, 2)
    if net.token is not None:
        x = torch.cat([net.token.expand(len(x), -1, -1), x], dim=1)
    x = x + net.position
    found = []
    for block in net.blocks:
        given, inner = block.norm1(x), block.attention.inner
        count, tokens, width = given.shape
        query, key, value = (
            part.view(count, tokens, inner.num_heads, -1).transpose(1, 2)
            for part in F.linear(given, inner.in_proj_weight, inner.in_proj_bias).chunk(3, dim=-1)
        )
        weights = torch.softmax(query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5, dim=-1)
        weights.retain_grad()
        found.append(weights)
        x = x + inner.out_proj((weights @ value).transpose(1, 2).reshape(count, tokens, width))
        x = x + block.mlp(block.norm2(x))
    x = net.norm(x)
    return net.head(x[:, 0] if net.token is not None else x.mean(dim=1)), found


def normalized(images: Tensor) -> Tensor:
    return Preprocess((16, 16), None, MEAN, STD).normalize(images)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_rollout_is_its_formula(form, class_token, images):
    net = VisionTransformer(form, class_token=class_token)
    found = attention_rollout(classifier_of(net), images, Target.of([1, 2]))
    _, weights = attention_by_hand(net, normalized(images))
    for index in range(2):
        rolled = torch.eye(weights[0].shape[-1])
        for layer in weights:
            mixed = layer[index].mean(dim=0) + torch.eye(layer.shape[-1])
            rolled = (mixed / mixed.sum(dim=-1, keepdim=True)) @ rolled
        row = rolled[0, 1:] if class_token else rolled.mean(dim=0)
        assert torch.allclose(found.maps[index], row.view(4, 4), atol=1e-6)
    read = "token 0" if class_token else "16 tokens, averaged"
    left_out = ", the first 1 left out" if class_token else ""
    assert found.notes == (
        f"{16 + class_token} tokens laid out as 4 x 4 patches{left_out}; the score is read from {read}",
    )


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_gradient_weighted_attention_is_its_formula(form, class_token, images):
    net = VisionTransformer(form, class_token=class_token)
    found = attention_relevance(classifier_of(net), images, Target.of([1, 2]))
    for index, goal in enumerate((1, 2)):
        logits, weights = attention_by_hand(net, normalized(images[index : index + 1]))
        logits[0, goal].backward()
        rolled = torch.eye(weights[0].shape[-1])
        for layer in weights:
            cam = (layer.grad[0] * layer[0]).clamp(min=0).mean(dim=0)
            rolled = rolled + cam @ rolled
        rolled = rolled - torch.eye(len(rolled))
        row = rolled[0, 1:] if class_token else rolled.mean(dim=0)
        expected = row.detach().view(4, 4)
        assert torch.allclose(found.maps[index], expected, atol=1e-4 * float(expected.max()))


def test_the_class_matters_to_the_one_and_not_to_the_other(images):
    classifier = classifier_of(VisionTransformer())
    one, other = (attribute(classifier, images, goal, "attention_relevance").maps for goal in (1, 2))
    assert not torch.allclose(one, other)
    one, other = (attribute(classifier, images, goal, "attention_rollout").maps for goal in (1, 2))
    assert torch.allclose(one, other)


class Detecting(VisionTransformer):
    """Reads the score from the first of three tokens that stand behind the patches, as YOLOS does."""

    def __init__(self) -> None:
        super().__init__("by_hand")
        self.wanted = nn.Parameter(torch.rand(1, 3, 12, generator=torch.Generator().manual_seed(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x, self.wanted.expand(len(x), -1, -1)], dim=1)
        return self.head(self.norm(self.blocks(x))[:, 17])  # type: ignore[no-any-return]


def test_tokens_behind_those_of_the_patches_are_left_out(images):
    net = Detecting().eval()
    caught = []
    for block in net.blocks:
        block.attention.softmax.register_forward_hook(lambda _module, _given, weights: caught.append(weights))
    logits = net(normalized(images[:1]))
    slopes = torch.autograd.grad(logits[0, 1], caught)
    rolled, rising = torch.eye(20), torch.eye(20)
    for weights, slope in zip(caught, slopes, strict=True):
        rolled = (0.5 * weights[0].mean(dim=0) + 0.5 * torch.eye(20)) @ rolled
        rising = rising + (weights * slope)[0].clamp(min=0).mean(dim=0) @ rising
    said = "20 tokens laid out as 4 x 4 patches, the first 1 and the last 3 left out; the score is read from token 17"
    classifier = classifier_of(Detecting().eval())
    for method, expected in ((attention_rollout, rolled), (attention_relevance, rising)):
        found = method(classifier, images[:1], Target.of(1))
        assert torch.allclose(found.maps[0], expected[17, 1:17].view(4, 4).detach(), atol=1e-5)
        assert found.notes == (said,)
    kept = {}
    net.blocks[2].norm1.register_forward_hook(lambda _module, _given, output: kept.update(tokens=output))
    (slope,) = torch.autograd.grad(net(normalized(images[:1]))[0, 1], kept["tokens"])
    places, slopes = (values[0, 1:17].T.reshape(12, 4, 4) for values in (kept["tokens"].detach(), slope))
    found = attribute(classifier, images[:1], 1, "grad_cam")
    assert found.layer == "blocks.2.norm1"
    expected = (places * slopes.mean(dim=(1, 2), keepdim=True)).sum(dim=0)
    assert torch.allclose(found.maps[0], expected, atol=1e-4 * float(expected.abs().max()))


class OtherAttention(nn.Module):
    """Self-attention of all patches, and one more step that is another attention.

    Args:
        kind: a class token that looks at the patches (CaiT), keys of pooled patches (PVT), windows on an axis of their
            own (Twins), or channels that look at each other (XCiT).
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.patches, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 5)
        self.token = nn.Parameter(torch.rand(1, 1, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # (N, 16, 16)
        x = x + F.scaled_dot_product_attention(x, x, x)
        if self.kind == "class token":
            x = F.scaled_dot_product_attention(self.token.expand(len(x), -1, -1), x, x)
        elif self.kind == "pooled":
            few = x.view(-1, 4, 4, 16).mean(dim=1)
            x = x + (x @ few.transpose(1, 2) * 0.25).softmax(dim=-1) @ few
        elif self.kind == "windows":
            parts = x.view(-1, 4, 1, 4, 16)
            x = x + F.scaled_dot_product_attention(parts, parts, parts).reshape(x.shape)
        else:
            x = x + ((x.transpose(1, 2) @ x).softmax(dim=-1) @ x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance"])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("class token", "1 x 1 tokens to 16, 1 x 16 tokens"),
        ("pooled", "1 x 16 tokens to 4, 1 x 16 tokens"),
        ("windows", "1 x 16 tokens, 4 x 4 tokens"),
        ("channels", "attends to channels, not to tokens"),
    ],
)
def test_other_attention_beside_that_of_all_tokens_is_not_passed_over(kind, why, method, images):
    with pytest.raises(ModelError, match=why):
        attribute(classifier_of(OtherAttention(kind).eval()), images, 1, method)


def test_attention_that_the_score_does_not_see_is_no_part_of_it(images):
    class Aside(VisionTransformer):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            return super().forward(x), F.scaled_dot_product_attention(tokens, tokens, tokens)

    one, other = (
        attribute(classifier_of(net), images, 1, "attention_rollout") for net in (Aside(), VisionTransformer())
    )
    assert torch.equal(one.maps, other.maps)


class ChannelsLessTheLargest(nn.Module):
    """Channels that look at each other, by the energy below the largest (DANet)."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.features(x).relu().flatten(2)
        energy = torch.bmm(rows, rows.transpose(1, 2))
        energy = torch.max(energy, -1, keepdim=True)[0].expand_as(energy) - energy
        return self.head((rows + torch.bmm(energy.softmax(-1), rows)).mean(2))  # type: ignore[no-any-return]


class Axial(nn.Module):
    """One head by hand: each row by itself, as images of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 12, 2, 2), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        rows = x.reshape(-1, x.shape[2], 12)
        rows = rows + torch.bmm(torch.bmm(rows, rows.transpose(1, 2)).softmax(-1), rows)
        return self.head(rows.reshape(len(x), -1, 12).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance"])
@pytest.mark.parametrize(
    ("network", "why"), [(ChannelsLessTheLargest, "attends to channels"), (Axial, "not over all tokens of an image")]
)
def test_what_only_looks_like_attention_of_all_tokens_is_refused(network, why, method, images):
    with pytest.raises(ModelError, match=why):
        attribute(classifier_of(network().eval()), images[:1], 1, method)


class Windows(nn.Module):
    """Attention inside of windows, as Swin's."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 12, 2, 2), nn.Linear(12, 5)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(-1, 16, 12)
        x = x + self.attention(x, x, x)[0]
        return self.head(x.reshape(-1, 64, 12).mean(dim=1))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance"])
def test_what_cannot_be_rolled_out_is_refused_by_name(method, images):
    with pytest.raises(ModelError, match="no layers of self-attention"):
        attribute(classifier_of(pooled()), images, 1, method)
    with pytest.raises(ModelError, match="not over all tokens of an image in every layer \\(4 x 16 tokens\\)"):
        attribute(classifier_of(Windows().eval()), images, 1, method)
    with pytest.raises(ModelError, match="a function of pictures"):
        attribute(ScoreFunction(lambda x: x.mean((2, 3))), images, 1, method)
    scripted = torch.jit.trace(VisionTransformer(), images)
    with pytest.raises(ModelError, match="TorchScript"):
        attribute(Classifier(scripted, Preprocess((16, 16))), images, 1, method)


def test_fused_attention_taken_apart_is_the_same():
    query, key, value = torch.rand(3, 2, 3, 5, 4).unbind()
    mask, bias = torch.ones(5, 5, dtype=torch.bool).tril(), torch.randn(5, 5)
    for options in ({}, {"attn_mask": mask}, {"attn_mask": bias}, {"is_causal": True}, {"scale": 0.3}):
        expected = F.scaled_dot_product_attention(query, key, value, **options)
        assert torch.allclose(attention(query, key, value, **options), expected, atol=1e-6)
    with pytest.raises(ModelError, match="dropout"):
        attention(query, key, value, dropout_p=0.5)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_module_taken_apart_is_the_same(batch_first):
    layer = nn.MultiheadAttention(12, 3, batch_first=batch_first).eval()
    x = torch.rand(2, 5, 12)
    given = (x, x, x, 12, 3, layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0)
    expected, _ = F.multi_head_attention_forward(
        *given, layer.out_proj.weight, layer.out_proj.bias, training=False, need_weights=False
    )
    found, _ = multi_head_attention(*given, layer.out_proj.weight, layer.out_proj.bias, training=False)
    assert torch.allclose(found, expected, atol=1e-6)
    with pytest.raises(ModelError, match="attn_mask cannot be taken apart"):
        multi_head_attention(*given, layer.out_proj.weight, layer.out_proj.bias, attn_mask=torch.zeros(2, 2))


@pytest.mark.parametrize("tokens", [5, 3])
def test_the_module_taken_apart_may_ask_others(tokens):
    """As pooling by a probe does, and a query with positions added to it."""
    layer = nn.MultiheadAttention(12, 3).eval()
    query, key, value = torch.rand(tokens, 2, 12), torch.rand(5, 2, 12), torch.rand(5, 2, 12)
    for given in ((query, key, key), (query, key, value)):
        expected = layer(*given, need_weights=False)[0]
        weights = (layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0)
        found, _ = multi_head_attention(*given, 12, 3, *weights, layer.out_proj.weight, layer.out_proj.bias)
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("class_token", [True, False])
def test_grad_cam_says_how_it_laid_the_tokens_out(class_token, images):
    classifier = classifier_of(VisionTransformer(class_token=class_token))
    found = attribute(classifier, images, 1, "grad_cam", layer="blocks.2.norm1")
    left_out = ", the first 1 left out" if class_token else ""
    assert found.notes == (
        f"the {16 + class_token} tokens of layer blocks.2.norm1 are laid out as 4 x 4 patches{left_out}",
    )
    assert attribute(classifier_of(pooled()), images, 1, "grad_cam").notes == ()


PEERS = [("grad_cam", "GradCAM"), ("hires_cam", "HiResCAM"), ("layer_cam", "LayerCAM")]


@pytest.mark.parametrize(("method", "theirs"), PEERS)
@pytest.mark.parametrize("class_token", [True, False])
def test_same_as_pytorch_grad_cam_with_the_reshaping_written_out(method, theirs, class_token, images):
    peers = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed", exc_type=ImportError)
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net = VisionTransformer(class_token=class_token)
    classifier = classifier_of(net)

    def places(tokens):
        return tokens[:, int(class_token) :].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)

    cam = getattr(peers, theirs)(net, [net.blocks[2].norm1], reshape_transform=places)
    cam.get_target_width_height = lambda _: (4, 4)
    expected = torch.from_numpy(cam(classifier.preprocess.normalize(images), [ClassifierOutputTarget(1)] * len(images)))
    found = attribute(classifier, images, 1, method, layer="blocks.2.norm1")
    assert float((stretched(found.maps) - expected).abs().max()) < 1e-4


class Moved(nn.Module):
    """Attention over tokens that were moved before."""

    def __init__(self, move) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 4)
        self.attention, self.move = nn.MultiheadAttention(8, 2, batch_first=True), move

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.move(self.patches(x).flatten(2).transpose(1, 2)))
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance"])
@pytest.mark.parametrize(
    ("move", "how"),
    [
        (lambda tokens: tokens.flip(1), "turned"),
        (lambda tokens: tokens[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))], "in another order"),
        (lambda tokens: tokens.unflatten(1, (8, 8)).transpose(1, 2).flatten(1, 2), "turned"),
    ],
)
def test_tokens_that_lie_elsewhere_than_the_picture_are_refused(method, move, how):
    images = torch.rand(1, 3, 32, 32)
    classifier = Classifier(Moved(move).eval(), Preprocess((32, 32)))
    with pytest.raises(ModelError, match=f"layer 'norm' of Moved sees the picture {how}"):
        attribute(classifier, images, 1, method)
    as_it_is = Classifier(Moved(torch.clone).eval(), Preprocess((32, 32)))
    assert attribute(as_it_is, images, 1, method).maps.shape == (1, 8, 8)
