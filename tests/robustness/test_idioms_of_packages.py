"""What ultralytics, vit-pytorch, segmentation_models_pytorch and fastai write, without these packages."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from phosphene import Classifier, Detected, Similar, attribute
from phosphene.errors import ModelError, OptionError
from phosphene.runtime import forward, prepare
from tests.comparing import map_error


class WithDefault(nn.Module):
    """ultralytics' Conv: its activation is an attribute of the class, which only `__init__` reads."""

    usual = nn.SiLU()

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(given, made, 3, 2, 1), self.usual

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class UsesDefault(WithDefault):
    def forward(self, x: Tensor) -> Tensor:
        return self.usual(self.conv(x))


def _network(block: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(block(3, 8), block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def test_a_default_of_a_class_that_only_its_making_reads_is_in_nobody_s_way() -> None:
    network, images = _network(WithDefault), torch.rand(2, 3, 32, 32, requires_grad=True)
    (wanted,) = torch.autograd.grad(network(images)[:, 1].sum(), images)
    found = attribute(Classifier.of(network), images.detach(), 1, "saliency").maps
    assert map_error(found, wanted.abs().amax(dim=1)) <= 1e-5
    with pytest.raises(ModelError, match="'usual' of the class"):
        attribute(Classifier.of(_network(UsesDefault)), images.detach(), 1, "saliency")


class Positions(nn.Module):
    """A row of tokens with embeddings of their places, which fit one size of images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16), nn.Linear(16, 4)
        self.places = nn.Parameter(torch.randn(1, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.patch(x).flatten(2).transpose(1, 2) + self.places).tanh().mean(1))


@pytest.mark.parametrize("method", ["grad_cam", "layer_saliency", "score_cam"])
def test_the_first_call_looks_for_a_layer_with_its_own_images(method: str) -> None:
    torch.manual_seed(0)
    assert attribute(Classifier.of(Positions().eval()), torch.rand(1, 3, 32, 32), 1, method).layer


def test_the_usual_layer_does_not_hang_on_what_was_asked_before() -> None:
    layers = [nn.Sequential(nn.Conv2d(size, 2 * size, 3, 2, 1), nn.ReLU()) for size in (3, 6, 12, 24, 48)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 3)).eval()
    images, asked = torch.rand(1, 3, 32, 32), Classifier.of(network)
    attribute(asked, images, 1, "saliency")
    found = {attribute(one, images, 1, "grad_cam").layer for one in (asked, Classifier.of(network))}
    assert found == {"3"}  # the one after it has a single place


class Encoder(nn.Module):
    """All features, the picture itself first."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        found = [x]
        for stage in (self.a, self.b):
            found.append(stage(found[-1]))
        return found


class Encoded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[-1].mean((2, 3)))


def test_what_gives_features_of_many_sizes_is_no_layer_to_look_at() -> None:
    torch.manual_seed(0)
    found = attribute(Classifier.of(Encoded().eval()), torch.rand(1, 3, 32, 32), 1, "grad_cam")
    assert (found.layer, found.maps.shape) == ("encoder.b", (1, 8, 8))


class Keeps:
    """fastai's Hook: what a layer gave is kept for another."""

    def __init__(self, layer: nn.Module) -> None:
        self.stored: Any = None
        self.handle = layer.register_forward_hook(self.keep)

    def keep(self, _layer: nn.Module, _given: Any, output: Tensor) -> None:
        self.stored = output


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last, self.kept = nn.Conv2d(16, 3, 3, padding=1), Keeps(self.first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x)).relu()
        return self.last(torch.cat([x, self.kept.stored], dim=1)).mean((2, 3))


def test_an_object_that_keeps_features_is_copied_with_them() -> None:
    torch.manual_seed(0)
    network, images = Skips().eval(), torch.rand(2, 3, 16, 16, requires_grad=True)
    (wanted,) = torch.autograd.grad(network(images)[:, 1].sum(), images)
    before = network.kept.stored  # with a gradient, which copy.deepcopy refuses
    classifier = Classifier.of(network)
    assert map_error(attribute(classifier, images.detach(), 1, "saliency").maps, wanted.abs().amax(dim=1)) <= 1e-5
    assert network.kept.stored is before
    assert prepare(classifier).network.module.kept is not network.kept


class Registered(nn.Module):
    """snntorch: every neuron is on a list of its class, by which all are set back."""

    made: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        super().__init__()
        Registered.made.append(self)
        self.register_buffer("charge", torch.zeros(()), persistent=False)

    @classmethod
    def reset(cls) -> None:
        for one in cls.made:
            one.charge = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.charge = 0.8 * self.charge + x
        return self.charge.sigmoid()


class Spiking(nn.Module):
    def __init__(self, resets: bool) -> None:
        super().__init__()
        self.conv, self.neuron, self.head = nn.Conv2d(3, 4, 5), Registered(), nn.Linear(4, 3)
        if resets:
            self.forward = self.set_back_first

    def set_back_first(self, x: Tensor) -> Tensor:
        type(self.neuron).reset()
        return Spiking.forward(self, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neuron(self.conv(x)).mean((2, 3)))


def test_a_registry_of_modules_that_passes_go_through_is_refused() -> None:
    """A copy would set back the user's neurons and leave its own as they are."""
    torch.manual_seed(0)
    network = Spiking(resets=True).eval()
    network.neuron.charge = before = torch.full((), 0.5)
    with pytest.raises(ModelError, match="a pass of a copy of Spiking changes the network itself"):
        attribute(Classifier.of(network), torch.rand(1, 3, 12, 12), 1, "saliency")
    assert network.neuron.charge is before


def test_a_registry_is_put_back_where_the_pass_fails_too(monkeypatch: Any) -> None:
    network = Spiking(resets=True).eval()
    network.neuron.charge = before = torch.full((), 0.5)

    def fails(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Registered, "forward", fails)
    with pytest.raises(KeyboardInterrupt):
        attribute(Classifier.of(network), torch.rand(1, 3, 12, 12), 1, "saliency")
    assert network.neuron.charge is before


def test_a_registry_of_modules_that_no_pass_reads_is_in_nobody_s_way() -> None:
    torch.manual_seed(0)
    network = Spiking(resets=False).eval()
    assert attribute(Classifier.of(network), torch.rand(1, 3, 12, 12), 1, "saliency").maps.any()


class Steps(nn.Module):
    """spikingjelly: all inner values are (steps in time, N, ...)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 5), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x[None].repeat(4, 1, 1, 1, 1)
        return self.head(self.conv(x.flatten(0, 1)).mean((2, 3))).unflatten(0, x.shape[:2])


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Steps()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).mean(0)


@pytest.mark.parametrize("count", [1, 2])
def test_steps_in_time_are_no_images(count: int) -> None:
    with pytest.raises(ModelError, match="no layer of Averaged has an output with places"):
        attribute(Classifier.of(Averaged().eval()), torch.rand(count, 3, 28, 28), 1, "grad_cam")


class LowRank(nn.Module):
    """peft's lora.Linear."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.a, self.b = nn.Linear(base.in_features, 4, bias=False), nn.Linear(4, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.b(self.a(x))


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(16), nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=2)
        return x + (q @ k.transpose(1, 2)).softmax(dim=-1) @ v


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.first = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16))
        self.block, self.head = Mixing(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.block(torch.cat([self.first.expand(len(x), -1, -1), x], dim=1))[:, 0])


def test_the_usual_layer_is_the_same_under_a_low_rank_adapter() -> None:
    torch.manual_seed(0)
    network, images = Tokens().eval(), torch.rand(1, 3, 32, 32)
    assert attribute(Classifier.of(network), images, 1, "grad_cam").layer == "block.norm"
    network.block.qkv = LowRank(network.block.qkv)
    assert attribute(Classifier.of(network), images, 1, "grad_cam").layer == "block.norm"


class Queries(nn.Module):
    """vit-pytorch's PatchMerger: learned queries, which are no places of the image."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.patch, self.mix = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16)
        self.queries, self.norm = nn.Parameter(torch.randn(count, 16)), nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.patch(x).flatten(2).transpose(1, 2))
        merged = (self.queries @ x.transpose(1, 2)).softmax(dim=-1) @ x
        return self.head(self.norm(merged).mean(dim=1))


@pytest.mark.parametrize("count", [4, 8, 16])
def test_learned_queries_are_no_places(count: int) -> None:
    torch.manual_seed(0)
    found = attribute(Classifier.of(Queries(count).eval()), torch.rand(1, 3, 32, 32), 1, "grad_cam")
    assert (found.layer, found.maps.shape) == ("mix", (1, 4, 4))


class OfFunctions(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        heads = x.unflatten(2, (1, 16)).transpose(1, 2)
        return self.head(self.norm(x + flex_attention(heads, heads, heads).transpose(1, 2).flatten(2)).mean(dim=1))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_that_is_made_of_functions_can_be_looked_through() -> None:
    """Of which PyTorch has no way back on the CPU."""
    torch.manual_seed(0)
    found = attribute(Classifier.of(OfFunctions().eval()), torch.rand(1, 3, 32, 32), 1, "eigen_cam", layer="norm")
    assert found.maps.shape == (1, 4, 4)


class Int8(Tensor):
    """torchao's tensors: made of others, they know few operations."""

    @staticmethod
    def __new__(cls, whole: Tensor, _scale: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, whole.shape, dtype=torch.float32, requires_grad=False)  # type: ignore[attr-defined]

    def __init__(self, whole: Tensor, scale: Tensor) -> None:
        self.whole, self.scale = whole, scale

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            return func(args[0], args[1].whole.float() * args[1].scale, *args[2:])
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return cls(args[0].whole.clone(), args[0].scale.clone())
        raise NotImplementedError(f"{func}")

    def __deepcopy__(self, memo: Any) -> Any:
        return nn.Parameter(Int8(self.whole.clone(), self.scale.clone()), requires_grad=False)


def test_weights_that_are_made_of_other_tensors_are_taken_as_they_are() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    network, images = nn.Sequential(*layers).eval(), torch.rand(2, 3, 16, 16, requires_grad=True)
    whole = (layers[-1].weight * 100).round().to(torch.int8)
    layers[-1].weight = nn.Parameter(Int8(whole, torch.tensor(0.01)), requires_grad=False)
    (wanted,) = torch.autograd.grad(network(images)[:, 1].sum(), images)
    found = attribute(Classifier.of(network), images.detach(), 1, "saliency").maps
    assert map_error(found, wanted.abs().amax(dim=1)) <= 1e-5


class LinearPatches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.head = nn.Linear(48, 16), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(nn.functional.pixel_unshuffle(x, 4).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_a_convolution_that_comes_after_linear_patches_says_nothing_of_pictures() -> None:
    found = attribute(Classifier.of(LinearPatches().eval()), torch.rand(1, 3, 16, 16), 1, "saliency")
    assert found.maps.shape == (1, 16, 16)


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no licence was found")


def test_a_size_is_asked_for_where_sizes_are_what_is_wrong() -> None:
    with pytest.raises(ModelError, match=r"no licence was found$"):
        attribute(Classifier.of(Fails()), torch.rand(1, 3, 16, 16), 1, "saliency")


class Asks(nn.Module):
    """Perceiver's attention: latents are normed, and get what they see added."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.others = nn.LayerNorm(16), nn.LayerNorm(16)

    def forward(self, latents: Tensor, x: Tensor) -> Tensor:
        asked, keys = self.own(latents), self.others(x)
        return latents + (asked @ keys.transpose(1, 2)).softmax(dim=-1) @ keys


class Latents(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.patch, self.latents = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(count, 16))
        self.look, self.head = Asks(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.look(self.latents.expand(len(x), -1, -1), x).mean(dim=1))


@pytest.mark.parametrize("count", [4, 8, 16])
def test_latents_are_no_places(count: int) -> None:
    torch.manual_seed(0)
    found = attribute(Classifier.of(Latents(count).eval()), torch.rand(1, 3, 32, 32), 1, "grad_cam")
    assert (found.layer, found.maps.shape) == ("look.others", (1, 4, 4))


class Config:
    scale = 2.0

    class Model:
        scale = 2.0


config = Config()


class Configured(nn.Module):
    def __init__(self, read: Any) -> None:
        super().__init__()
        self.conv, self.head, self.read, self.config = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), read, Config

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)) * self.read(self))


@pytest.mark.parametrize(
    ("read", "of"),
    [
        (lambda _: config.scale, Config),
        (lambda _: Config.Model.scale, Config.Model),
        (lambda network: network.config.scale, Config),
    ],
)
def test_settings_that_are_attributes_of_a_class_may_change(read: Any, of: type, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    network, images = Configured(read).eval(), torch.rand(1, 3, 16, 16)
    classifier = Classifier.of(network)
    before = attribute(classifier, images, 1, "saliency").maps
    monkeypatch.setattr(of, "scale", -6.0)
    assert map_error(attribute(classifier, images, 1, "saliency").maps, 3 * before) <= 1e-5


class TwoGraphs(nn.Module):
    """torchvision's feature extractor: a copy of it comes back in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3))) * (-1 if self.training else 1)

    def __deepcopy__(self, memo: Any) -> TwoGraphs:
        made = TwoGraphs()
        made.load_state_dict(self.state_dict())
        return made


def test_a_copy_is_in_the_mode_of_its_original() -> None:
    torch.manual_seed(0)
    network, images = TwoGraphs().eval(), torch.rand(1, 3, 16, 16)
    assert torch.allclose(forward(Classifier.of(network), images), network(images), atol=1e-6)


def test_lazy_layers_are_asked_to_run_first() -> None:
    network = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(ModelError, match="lazy layers that never ran; run it once"):
        attribute(Classifier.of(network.eval()), torch.rand(1, 3, 16, 16), 1, "saliency")


class MayFlip(nn.Module):
    """torchvision's RandomHorizontalFlip(1.0): a number is drawn, which changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1) if torch.rand(1) < 1 else x


@pytest.mark.filterwarnings("ignore:.*draws random numbers")
def test_of_numbers_that_are_drawn_no_more_is_said_than_was_seen() -> None:
    layers = MayFlip(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    (note,) = attribute(Classifier.of(nn.Sequential(*layers).eval()), torch.rand(1, 3, 16, 16), 1, "saliency").notes
    assert "passes may give other scores, though two had the same" in note


@pytest.mark.parametrize("given", [lambda row: row, lambda row: row.numpy(), lambda row: row.tolist()])
def test_a_reference_may_be_a_tensor(given: Any) -> None:
    network, images = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        torch.rand(2, 3, 9, 9),
    )
    target = Similar(given(network(images[:1])[0].detach()))
    found = attribute(Classifier.of(network, head="score"), images[1:], target, "saliency")
    assert found.maps.any()
    with pytest.raises(OptionError, match="one row of numbers"):
        Similar(given(network(images).detach()))


class Focal(nn.Module):
    """RT-DETR, D-FINE: a score for each label and none of no object."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rows = self.head(self.conv(x).flatten(2).transpose(1, 2))
        return {"logits": rows[..., :3], "pred_boxes": rows[..., 3:].sigmoid()}


def test_boxes_with_a_score_for_each_label_are_read_by_a_sigmoid() -> None:
    torch.manual_seed(0)
    network, images = Focal().eval(), torch.rand(1, 3, 32, 32)
    wanted = network(images)["logits"].sigmoid().amax(dim=1)
    classifier = Classifier.of(network, ["cat", "dog", "cup"], head="boxes")
    assert torch.allclose(classifier.logits(images), wanted, atol=1e-6)
    assert attribute(classifier, images, 2, "saliency").maps.any()
    box = Detected(2, (0.0, 0.0, 32.0, 32.0))
    assert attribute(classifier, images, box, "saliency").maps.shape == (1, 32, 32)
    with_none = Classifier.of(network, ["cat", "dog"], head="boxes")
    assert torch.allclose(with_none.logits(images), network(images)["logits"].softmax(-1)[..., :2].amax(1), atol=1e-6)


class Pair(nn.Module):
    """A Siamese network: one body sees both pictures, the fixed one last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU()), nn.Linear(8, 2)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.head((self.body(one).mean((2, 3)) - self.body(other).mean((2, 3))).abs())


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "score_cam"])
@pytest.mark.parametrize("layer", [None, "body"])
def test_the_usual_layer_is_not_that_of_a_fixed_picture(method: str, layer: str | None) -> None:
    torch.manual_seed(0)
    classifier = Classifier.of(Pair().eval(), inputs={"other": torch.rand(1, 3, 32, 32)})
    with pytest.raises(ModelError, match="last output of layer 'body' of Pair is of inputs that are fixed"):
        attribute(classifier, torch.rand(1, 3, 32, 32), 1, method, **({"layer": layer} if layer else {}))


def test_a_layer_that_is_dead_is_not_said_to_be_of_another_picture() -> None:
    shared = nn.Softshrink(100.0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), shared, nn.Conv2d(4, 4, 3), shared, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="or dead: it is the same for every picture"):
        attribute(Classifier.of(net), torch.rand(1, 3, 32, 32), 1, "grad_cam", layer="1")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_relus_in_torchscript_are_reached_by_no_rule(method: str) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    whole, frozen = torch.jit.script(nn.Sequential(*layers).eval()), torch.jit.script(nn.Sequential(*layers).eval())
    part = nn.Sequential(torch.jit.script(nn.Sequential(*layers[:3]).eval()), *layers[3:]).eval()
    for network in (whole, torch.jit.freeze(frozen), part):
        with pytest.raises(ModelError, match=r"does not reach .* TorchScript"):
            attribute(Classifier.of(network), torch.rand(1, 3, 16, 16), 1, method)


class KeepsWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        output, weights = self.attention(x, x, x)
        self.weights = weights.detach()
        return self.head((x + output).mean(1))


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance", "attn_lrp"])
def test_a_network_may_keep_its_attention(method: str) -> None:
    torch.manual_seed(0)
    assert attribute(Classifier.of(KeepsWeights().eval()), torch.rand(1, 3, 32, 32), 1, method).maps.any()


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1).to(torch.cfloat), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x.to(torch.cfloat)).abs().mean((2, 3)))


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_channels_of_complex_numbers_are_not_read() -> None:
    classifier, images = Classifier.of(Complex().eval()), torch.rand(1, 3, 32, 32)
    with pytest.raises(ModelError, match="no layer of Complex has an output with places"):
        attribute(classifier, images, 1, "grad_cam")
    with pytest.raises(ModelError, match="layer 'conv' gives complex numbers"):
        attribute(classifier, images, 1, "grad_cam", layer="conv")
    assert attribute(classifier, images, 1, "saliency").maps.any()


@pytest.mark.filterwarnings("ignore:.*LeafSpec")
def test_relevance_of_an_exported_norm_is_that_of_the_norm() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    network, images = nn.Sequential(*layers).eval(), torch.rand(1, 3, 16, 16)
    layers[1].running_mean.normal_()
    exported = torch.export.unflatten(torch.export.export(network, (images,)))
    wanted = attribute(Classifier.of(network), images, 1, "lrp").maps
    assert map_error(attribute(Classifier.of(exported), images, 1, "lrp").maps, wanted) <= 1e-5
