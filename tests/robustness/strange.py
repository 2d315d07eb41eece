"""Networks as others write them, one oddity each, after bug reports of other libraries. Each is made anew at each call.

`CASES` holds them by name. All see pictures of 16 x 16 and have five classes.
"""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

SIZE, CLASSES = (16, 16), 5


@dataclass(frozen=True)
class Case:
    """A strange network and what can be asked of it.

    Args:
        make: makes it, in eval mode, the same each time.
        layer: one with positions, that runs once; None for none.
        rules: whether deconvnet and guided back-propagation read all of its activations.
        may_refuse: a word of the refusal that is as good as a right map; None where it has to work.
    """

    make: Callable[[], nn.Module]
    layer: str | None = "second"
    rules: bool = True
    may_refuse: str | None = None


CASES: dict[str, Case] = {}


def case(**facts: Any) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Registers what makes a network under its name."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def made() -> nn.Module:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(5)
                return make().eval()

        CASES[make.__name__] = Case(made, **facts)
        return made

    return register


def body(**others: nn.Module) -> nn.Sequential:
    """Two convolutions, a norm, ReLUs, pooling and a linear layer, by name; `others` take the place of some."""
    layers: dict[str, nn.Module] = {
        "first": nn.Conv2d(3, 6, 3, padding=1),
        "norm": moved(nn.BatchNorm2d(6)),
        "relu": nn.ReLU(),
        "pool": nn.MaxPool2d(2),
        "second": nn.Conv2d(6, 8, 3, padding=1),
        "last": nn.ReLU(inplace=True),
        "average": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "head": nn.Linear(8, CLASSES),
    }
    assert others.keys() <= layers.keys()
    return nn.Sequential(OrderedDict(layers | others))


def moved(norm: nn.Module) -> nn.Module:
    """A norm with weights and statistics that are not those of a new one."""
    for name, low, high in (("running_mean", -0.4, 0.4), ("running_var", 0.5, 2), ("weight", -1.5, 1.5)):
        values = getattr(norm, name, None)
        if values is not None:
            nn.init.uniform_(values, low, high)
    return norm


class Body(nn.Module):
    """The same with a forward of its own, for networks that change it."""

    def __init__(self, **others: nn.Module) -> None:
        super().__init__()
        for name, layer in body(**others).named_children():
            setattr(self, name, layer)

    def below(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.norm(self.first(x))))

    def above(self, x: Tensor) -> Tensor:
        return self.head(self.average(self.last(x)).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.second(self.below(x)))


# Forwards of instances and classes


@case()
def a_pool_patched_to_be_soft() -> nn.Module:
    network = body()
    network.pool.forward = MethodType(lambda self, x: F.avg_pool2d(x, 2) + F.max_pool2d(x, 2), network.pool)
    return network


@case()
def a_flatten_patched_to_scale() -> nn.Module:
    network = body()
    network.flatten.forward = lambda x: 1.7 * x.flatten(1)
    return network


@case()
def a_convolution_patched_by_a_class_of_its_own() -> nn.Module:
    """As quantization and LoRA libraries do: the class of an instance is exchanged."""

    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.factor

    network = body()
    network.first.factor = 1.5
    network.first.__class__ = Scaled
    return network


@case()
def a_call_of_its_own() -> nn.Module:
    class Doubled(nn.Conv2d):
        def __call__(self, x: Tensor) -> Tensor:
            return 2 * super().__call__(x)

    return body(first=Doubled(3, 6, 3, padding=1))


@case()
def a_linear_layer_with_a_call_of_its_own() -> nn.Module:
    class Tempered(nn.Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) / 3

    return body(head=Tempered(8, CLASSES))


@case()
def standardized_weights() -> nn.Module:
    """As BiT and NFNet."""

    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            mean, deviation = self.weight.mean((1, 2, 3), True), self.weight.std((1, 2, 3), keepdim=True)
            return self._conv_forward(x, (self.weight - mean) / (deviation + 1e-5), self.bias)

    return body(first=Standardized(3, 6, 3, padding=1), second=Standardized(6, 8, 3, padding=1))


@case()
def a_norm_with_its_activation() -> nn.Module:
    """As timm's BatchNormAct2d: a subclass of the norm that also cuts off."""

    class NormAct(nn.BatchNorm2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(super().forward(x))

    return body(norm=moved(NormAct(6)), relu=nn.Identity())


@case()
def a_frozen_norm() -> nn.Module:
    """As detectors have it: four buffers and no statistics of its own."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("weight", "bias", "running_mean", "running_var"):
                self.register_buffer(name, torch.rand(6) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            scale = self.weight * (self.running_var + 1e-5).rsqrt()
            return x * scale.view(-1, 1, 1) + (self.bias - self.running_mean * scale).view(-1, 1, 1)

    return body(norm=Frozen())


@case()
def generalized_mean_pooling() -> nn.Module:
    class GeM(nn.AdaptiveAvgPool2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clamp(min=1e-3).pow(3)).pow(1 / 3)

    return body(average=GeM(1))


@case()
def a_cosine_head() -> nn.Module:
    class Cosine(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 8 * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))

    return body(head=Cosine(8, CLASSES))


@case()
def an_identity_that_scales() -> nn.Module:
    class Scale(nn.Identity):
        def forward(self, x: Tensor) -> Tensor:
            return -0.6 * x

    return body(norm=Scale(), pool=nn.Sequential(OrderedDict(pool=nn.MaxPool2d(2), scale=Scale())))


@case()
def a_dropout_that_scales_when_it_is_off() -> nn.Module:
    class Rescaled(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.training else x * (1 - self.p)

    return body(norm=Rescaled(0.4), flatten=nn.Sequential(OrderedDict(flat=nn.Flatten(), drop=Rescaled(0.25))))


@case()
def a_sequential_that_skips() -> nn.Module:
    class Skipping(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return x + super().forward(x)

    return body(norm=Skipping(nn.Conv2d(6, 6, 3, padding=1), moved(nn.BatchNorm2d(6)), nn.ReLU()))


@case()
def a_pool_that_blurs() -> nn.Module:
    class Blurred(nn.MaxPool2d):
        def __init__(self) -> None:
            super().__init__(2, 1)
            self.register_buffer("filter", torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1]))[None, None] / 16)

        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(super().forward(x), (1, 1, 1, 1), mode="reflect")
            return F.conv2d(x, self.filter.expand(x.shape[1], -1, -1, -1), stride=2, groups=x.shape[1])

    return body(pool=Blurred())


@case()
def an_activation_that_cuts_at_a_learned_place() -> nn.Module:
    class Shifted(nn.ReLU):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.full((1, 6, 1, 1), 0.3))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - self.shift) + self.shift

    return body(relu=Shifted())


@case(rules=False)
def a_hardtanh_of_other_bounds() -> nn.Module:
    return body(relu=nn.Hardtanh(-0.3, 0.4), last=nn.Hardtanh(0.1, 0.5, inplace=True))


@case(rules=False)
def a_relu6_of_other_bounds() -> nn.Module:
    relu6 = nn.ReLU6()
    relu6.min_val, relu6.max_val = -0.5, 0.7  # which its forward does not read
    return body(relu=relu6)


# Parametrizations


@case()
def the_older_weight_norm() -> nn.Module:
    network = body()
    nn.utils.weight_norm(network.first)
    nn.utils.weight_norm(network.head)
    return network


@case()
def the_older_spectral_norm() -> nn.Module:
    network = body()
    nn.utils.spectral_norm(network.second)
    return network.eval()


@case()
def orthogonal_weights() -> nn.Module:
    network = body()
    parametrizations.orthogonal(network.head)
    return network


@case()
def binary_weights() -> nn.Module:
    class Binary(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.sign() * weight.abs().mean()

    network = body()
    for layer in (network.first, network.second):
        parametrize.register_parametrization(layer, "weight", Binary())
    return network


@case()
def parametrized_norms_and_biases() -> nn.Module:
    network = body()
    parametrize.register_parametrization(network.norm, "weight", nn.Softplus())
    parametrize.register_parametrization(network.first, "bias", nn.Tanh())
    return network


@case()
def pruned_everywhere() -> nn.Module:
    network = body()
    prune.random_unstructured(network.first, "weight", 0.5)
    prune.l1_unstructured(network.first, "bias", 2)
    prune.ln_structured(network.second, "weight", 0.4, n=2, dim=0)
    prune.random_unstructured(network.head, "weight", 0.3)
    return network


@case()
def tied_weights() -> nn.Module:
    network = body(norm=nn.Conv2d(6, 6, 3, padding=1), relu=nn.Conv2d(6, 6, 3, padding=1))
    network.relu.weight = network.norm.weight
    network.relu.bias = network.norm.bias
    return network


@case()
def weights_that_are_a_view_of_others() -> nn.Module:
    network = body()
    network.second.weight = nn.Parameter(network.second.weight.detach().transpose(2, 3))
    return network


@case()
def a_weight_made_by_another_layer() -> nn.Module:
    """A hypernetwork: the filter comes from a linear layer."""

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.maker = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, 6 * 27)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.maker(self.code).view(6, 3, 3, 3), padding=1)

    return body(first=Hyper())


@case()
def a_filter_that_depends_on_the_image() -> nn.Module:
    """Conditional convolution: each image has its own mixture of filters, one group per image."""

    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts, self.route = nn.Parameter(torch.randn(3, 6, 3, 3, 3) / 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            count, channels, height, width = x.shape
            shares = self.route(x.mean((2, 3))).sigmoid()
            weight = torch.einsum("ne,eoikl->noikl", shares, self.experts).reshape(-1, channels, 3, 3)
            found = F.conv2d(x.reshape(1, -1, height, width), weight, padding=1, groups=count)
            return found.view(count, -1, height, width)

    return body(first=Conditional())


# Norms and paddings


@case()
def a_norm_whose_statistics_were_taken_away() -> nn.Module:
    network = body()
    network.norm.running_mean = network.norm.running_var = None
    return network


@case()
def a_norm_that_never_leaves_training() -> nn.Module:
    class Always(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> nn.Module:
            return super().train(True)

    return body(norm=moved(Always(6)))


@case()
def a_norm_of_many_kinds() -> nn.Module:
    return body(
        norm=nn.Sequential(
            nn.InstanceNorm2d(6, affine=True),
            moved(nn.InstanceNorm2d(6, track_running_stats=True)),
            nn.GroupNorm(3, 6),
            nn.LocalResponseNorm(3, alpha=0.5),
            moved(nn.SyncBatchNorm(6)),
            nn.BatchNorm2d(6, affine=False, eps=0.3, momentum=None),
        )
    )


@case()
def a_norm_over_channels_last() -> nn.Module:
    class Last(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return body(norm=Last(6))


@case()
def paddings_of_all_kinds() -> nn.Module:
    return body(
        first=nn.Sequential(
            nn.Conv2d(3, 6, (3, 5), padding=(1, 2), padding_mode="reflect"),
            nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular", groups=3),
            nn.Conv2d(6, 6, 4, padding="same"),
            nn.Conv2d(6, 6, 3, padding="same", dilation=(2, 1), padding_mode="replicate"),
            nn.ZeroPad2d((0, 1, 1, 0)),
            nn.Conv2d(6, 6, 2, padding="valid"),
            nn.ReflectionPad2d(1),
            nn.ConstantPad2d(-1, 0.0),
        )
    )


@case(rules=False)
def pools_of_all_kinds() -> nn.Module:
    return body(
        norm=nn.Sequential(
            nn.MaxPool2d(3, 1, 1, dilation=1),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Upsample(scale_factor=2),
            nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            nn.AvgPool2d(2, 1, divisor_override=3),
            nn.LPPool2d(2, 2, 1),
        ),
        average=nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.AdaptiveAvgPool2d(1)),
    )


# Ways of calling


@case()
def layers_called_by_keyword() -> nn.Module:
    class Keywords(Body):
        def forward(self, x: Tensor) -> Tensor:
            x = self.pool(input=self.relu(input=self.norm(input=self.first(input=x))))
            x = F.relu(input=self.second(input=x), inplace=True)
            return self.head(input=torch.flatten(input=self.average(input=x), start_dim=1))

    return Keywords()


@case()
def a_second_input_that_may_be_left_out() -> nn.Module:
    class Optional(Body):
        def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 0.5) -> Tensor:
            x = super().forward(x if mask is None else x * mask)
            return x * scale

    return Optional()


@case()
def layers_in_a_plain_list_beside_their_names() -> nn.Module:
    class Listed(Body):
        def __init__(self) -> None:
            super().__init__()
            self.steps = [self.first, self.norm, self.relu, self.pool, self.second, self.last, self.average]

        def forward(self, x: Tensor) -> Tensor:
            for step in self.steps:
                x = step(x)
            return self.head(x.flatten(1))

    return Listed()


@case()
def a_layer_used_at_three_places() -> nn.Module:
    class Repeated(Body):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), moved(nn.BatchNorm2d(6)), nn.ReLU(inplace=True))

        def below(self, x: Tensor) -> Tensor:
            x = self.relu(self.norm(self.first(x)))
            for _ in range(3):
                x = self.again(x)
            return self.pool(self.norm(x))

    return Repeated()


@case()
def a_layer_whose_output_is_read_again_later() -> nn.Module:
    class Cached(Body):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.first(x)
            x = self.pool(self.relu(self.norm(self.kept)))
            return self.above(self.second(x + F.avg_pool2d(self.kept, 2)))

    return Cached()


@case()
def a_weight_read_past_its_layer() -> nn.Module:
    class Turned(Body):
        def below(self, x: Tensor) -> Tensor:
            turned = F.conv2d(x, self.first.weight.flip(-1), self.first.bias, padding=1)
            x = F.batch_norm(
                self.first(x) + turned, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
            )
            return self.pool(self.relu(x))

    return Turned()


@case()
def work_in_place_everywhere() -> nn.Module:
    class InPlace(Body):
        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x += 0.1
            x = self.norm(x).mul_(1.5).add_(0.2).relu_()
            y = self.second(self.pool(x))
            y[:, ::2] *= 0.5
            y[:, :, 0] = 0
            y.add_(y.mean((2, 3), keepdim=True))
            return self.above(y)

    return InPlace()


@case()
def work_in_place_on_a_part() -> nn.Module:
    class Parts(Body):
        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            x[:, :3].mul_(-2)
            x.narrow(1, 3, 2).relu_()
            return self.pool(self.relu(x))

    return Parts()


@case()
def work_in_place_on_chunks() -> nn.Module:
    class Chunks(Body):
        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            left, middle = x[:, :2], x.select(1, 2)
            left.add_(1)
            middle.unsqueeze(1).sub_(0.5)
            return self.pool(self.relu(x))

    return Chunks()


@case()
def work_in_place_whose_result_is_not_taken() -> nn.Module:
    class Dropped(Body):
        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            x.mul_(0.5)
            torch.neg_(x)
            F.relu_(x)
            return self.pool(x)

    return Dropped()


@case()
def checkpointed_blocks() -> nn.Module:
    class Checkpointed(Body):
        def below(self, x: Tensor) -> Tensor:
            return checkpoint(super().below, x, use_reentrant=False)

    return Checkpointed()


@case(rules=False)
def a_block_that_was_scripted() -> nn.Module:
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.tanh(x.mean((2, 3), keepdim=True))

    return body(norm=torch.jit.script(Gate()))


@case()
def parts_held_by_an_object_that_is_no_module() -> nn.Module:
    class Held(Body):
        def __init__(self) -> None:
            super().__init__()
            self.parts = SimpleNamespace(convolution=self.second, factor=1.3)

        def forward(self, x: Tensor) -> Tensor:
            return self.above(self.parts.convolution(self.below(x)) * self.parts.factor)

    return Held()


@case(may_refuse="")
def a_sibling_reached_by_a_weak_reference() -> nn.Module:
    class Weak(nn.Module):
        def __init__(self, sibling: nn.Module) -> None:
            super().__init__()
            self.sibling = weakref.ref(sibling)

        def forward(self, x: Tensor) -> Tensor:
            return self.sibling()(x)

    class Pair(Body):
        def __init__(self) -> None:
            super().__init__()
            self.extra = moved(nn.BatchNorm2d(6))
            self.weak = Weak(self.extra)

        def below(self, x: Tensor) -> Tensor:
            return self.weak(super().below(x))

    return Pair()


@case()
def a_parent_reached_through_a_list() -> nn.Module:
    class Child(nn.Module):
        def __init__(self, parent: nn.Module) -> None:
            super().__init__()
            self.parent = [parent]

        def forward(self, x: Tensor) -> Tensor:
            return self.parent[0].pool(self.parent[0].relu(x))

    class Parent(Body):
        def __init__(self) -> None:
            super().__init__()
            self.child = Child(self)

        def below(self, x: Tensor) -> Tensor:
            return self.child(self.norm(self.first(x)))

    return Parent()


# Hooks and functions with a gradient of their own


@case()
def a_hook_that_is_a_method_of_the_network() -> nn.Module:
    class Hooked(Body):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1.5))
            self.norm.register_forward_hook(self.scaled)

        def scaled(self, module: nn.Module, given: Any, output: Tensor) -> Tensor:
            return output * self.gain

    return Hooked()


@case()
def a_hook_that_is_an_object() -> nn.Module:
    class Adding:
        def __init__(self, layer: nn.Module) -> None:
            self.layer = layer

        def __call__(self, module: nn.Module, given: Any, output: Tensor) -> Tensor:
            return output + self.layer(given[0])

    network = body(relu=nn.Sequential(OrderedDict(cut=nn.ReLU(), side=nn.Conv2d(6, 6, 1))))
    network.norm.register_forward_hook(Adding(network.relu.side))
    return network


@case()
def a_hook_that_edits_what_the_head_is_given() -> nn.Module:
    network = body()
    network.head.register_forward_pre_hook(lambda module, given: (given[0].square(),))
    network.average.register_forward_hook(lambda module, given, output: output + 0.2)
    return network


@case()
def a_hook_on_a_container_of_a_chain() -> nn.Module:
    network = body(norm=nn.Sequential(OrderedDict(inner=moved(nn.BatchNorm2d(6)))))
    network.norm.register_forward_hook(lambda module, given, output: output.abs())
    return network


@case(may_refuse="BackwardHook")
def gradients_edited_by_hooks() -> nn.Module:
    network = body(last=nn.ReLU())
    network.second.register_full_backward_hook(lambda module, into, out: (0.25 * into[0],))
    network.norm.register_full_backward_pre_hook(lambda module, out: (-out[0],))
    return network


@case()
def gradients_edited_by_a_hook_on_a_value() -> nn.Module:
    class Clipped(Body):
        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            if x.requires_grad:
                x.register_hook(lambda gradient: 3 * gradient)
            return x

    return Clipped()


@case()
def the_hook_of_the_tutorial() -> nn.Module:
    """What is found in most explanations of Grad-CAM: the forward keeps the gradient of its own features."""

    class Tutorial(Body):
        def __init__(self) -> None:
            super().__init__()
            self.gradients: Tensor | None = None

        def keep(self, gradient: Tensor) -> None:
            self.gradients = gradient

        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.below(x))
            x.register_hook(self.keep)
            return self.above(x)

    return Tutorial()


@case(rules=False)
def a_gradient_edited_where_it_is_looked_at() -> nn.Module:
    network = body(last=nn.Tanh())

    def hook(module: nn.Module, given: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.clamp(min=0))

    network.second.register_forward_hook(hook)
    return network


@case(rules=False)
def a_straight_through_step() -> nn.Module:
    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return (x > 0.2).to(x)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    class Stepping(Body):
        def below(self, x: Tensor) -> Tensor:
            return Step.apply(super().below(x))

    return Stepping()


@case(rules=False)
def an_activation_with_a_gradient_written_by_hand() -> nn.Module:
    """As memory-saving Swish in EfficientNets."""

    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x.sigmoid()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            gate = x.sigmoid()
            return gradient * gate * (1 + x * (1 - gate))

    class Swishing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Swish.apply(x)

    return body(relu=Swishing(), last=Swishing())


# Operations that mix positions, or know where they are


@case()
def a_map_of_coordinates() -> nn.Module:
    class Coordinates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rows, columns = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
            self.register_buffer("where", (rows * columns + columns)[None, None])

        def forward(self, x: Tensor) -> Tensor:
            return x + self.where

    return body(norm=Coordinates())


@case()
def a_learned_map_of_weights() -> nn.Module:
    class Windowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.rows = nn.Parameter(torch.rand(6, 16, 16)), nn.Parameter(torch.rand(1, 1, 16, 1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.mul(x, self.weight) + self.rows

    return body(norm=Windowed())


@case()
def coordinates_joined_as_channels() -> nn.Module:
    class CoordConv(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            side = torch.linspace(0, 1, x.shape[-1]).to(x).expand(len(x), 1, x.shape[2], -1)
            return super().forward(torch.cat([x, side, side.transpose(2, 3)], 1))

    return body(first=CoordConv(5, 6, 3, padding=1))


@case()
def positions_that_move() -> nn.Module:
    class Moving(Body):
        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            x = torch.roll(x, (3, -2), (2, 3)) + x.flip(-1) * 0.5 + x.transpose(2, 3) * 0.25
            return self.pool(self.relu(x))

    return Moving()


@case()
def channels_that_are_shuffled_and_split() -> nn.Module:
    class Shuffled(Body):
        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            count, channels, height, width = x.shape
            x = x.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(count, channels, height, width)
            one, other = x.split([2, 4], dim=1)
            x = torch.cat((other, one * 2), dim=-3)
            return self.pool(self.relu(F.pixel_unshuffle(F.pixel_shuffle(torch.cat([x, x[:, :2]], 1), 2), 2)[:, :6]))

    return Shuffled()


@case()
def a_concatenation_of_rows() -> nn.Module:
    class Stacked(Body):
        def below(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.pool(self.relu(self.norm(torch.cat([x, x.flip(2)], 2))))

    return Stacked()


@case()
def positions_that_are_weighed_by_each_other() -> nn.Module:
    class Weighed(Body):
        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            x = x * x.mean(1, keepdim=True).flatten(2).softmax(-1).view(len(x), 1, 16, 16) * 100
            return self.pool(self.relu(x / (x.amax((2, 3), keepdim=True) + 1).abs()))

    return Weighed()


@case()
def branches_of_other_sizes() -> nn.Module:
    class Pyramid(Body):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(6, 6, 3, 2, 1)

        def below(self, x: Tensor) -> Tensor:
            x = self.relu(self.norm(self.first(x)))
            down = F.relu(self.side(x))
            up = F.interpolate(down, size=x.shape[-2:], mode="bilinear", align_corners=False)
            return self.pool(x + up) + down * down.mean((2, 3), keepdim=True)

    return Pyramid()


@case()
def attention_over_positions() -> nn.Module:
    class Attending(Body):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            tokens = x.flatten(2).transpose(1, 2)
            tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return tokens.transpose(1, 2).reshape(x.shape)

    return Attending()


@case()
def a_view_of_what_only_several_images_lay_out_in_another_way() -> nn.Module:
    class Viewed(Body):
        def __init__(self) -> None:
            super().__init__(head=nn.Linear(8 * 8 * 8, CLASSES))
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            tokens = x.flatten(2).transpose(1, 2)
            tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return (x.flatten(2).transpose(1, 2) + tokens).transpose(1, 2).reshape(x.shape)

        def above(self, x: Tensor) -> Tensor:
            return self.head(self.last(x).view(len(x), -1))

    return Viewed()


@case(rules=False)
def a_transformer_layer() -> nn.Module:
    class Encoding(Body):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, activation="gelu")

        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            return self.encoder(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)

    return Encoding()


@case(layer=None, rules=False)
def a_spectrogram_network() -> nn.Module:
    """Logarithm of a spectrum first, a norm over frequencies, a pool over time, a recurrent layer."""

    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.second = moved(nn.BatchNorm1d(9)), nn.Conv1d(27, 8, 3, padding=1)
            self.recurrent, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            spectrum = torch.fft.rfft(x, dim=-1).abs().add(1).log().transpose(2, 3)  # (N, 3, 9, 16)
            rows = self.norm(spectrum.flatten(0, 1)).view(len(x), 27, 16)
            rows = self.second(rows).relu().transpose(1, 2)
            return self.head(self.recurrent(rows)[0][:, -1])

    return Spectral()


@case(layer="third")
def convolutions_of_other_kinds() -> nn.Module:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv3d(1, 4, (3, 3, 3), padding=1), nn.ConvTranspose2d(12, 6, 3, 2, 1, 1)
            self.third, self.unfold = nn.Conv2d(54, 8, 1), nn.Unfold(3, stride=2)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x[:, None]).flatten(1, 2).relu()
            x = self.unfold(self.second(x))
            return self.head(self.third(x.view(len(x), -1, 15, 15)).relu().amax((2, 3)))

    return Kinds()


@case()
def groups_of_all_sizes() -> nn.Module:
    class Grouped(Body):
        def __init__(self) -> None:
            super().__init__(second=nn.Conv2d(12, 8, 3, padding=1, groups=4))
            self.multiplied = nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False)

        def below(self, x: Tensor) -> Tensor:
            return self.multiplied(super().below(x))

    return Grouped()


# Outputs


@case()
def scores_in_a_tuple_with_losses() -> nn.Module:
    class Tupled(Body):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), [x.mean(), None], {"aux": x}

    return Tupled()


@case()
def scores_that_are_a_view() -> nn.Module:
    class Viewed(Body):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).view(-1, CLASSES, 1, 1)

    return Viewed()


@case()
def a_head_by_view_behind_a_convolution() -> nn.Module:
    class Flat(Body):
        def __init__(self) -> None:
            super().__init__(head=nn.Linear(8 * 64, CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.below(x))
            return self.head(self.last(x).view(x.size(0), -1))

    return Flat()


@case()
def a_head_by_view_behind_layers_of_one_channel() -> nn.Module:
    """Maps of one channel have no layout of their own, which the next layer then chooses."""

    class Flat(Body):
        def __init__(self) -> None:
            super().__init__(first=nn.Conv2d(3, 1, 3, padding=1), norm=nn.ReLU(), second=nn.Conv2d(1, 2, 3, padding=1))
            self.head = nn.Linear(2 * 64, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.below(x)).view(x.size(0), -1))

    return Flat()


@case()
def a_head_for_each_position() -> nn.Module:
    class Dense(Body):
        def forward(self, x: Tensor) -> Tensor:
            x = self.last(self.second(self.below(x)))
            return self.head(x.permute(0, 2, 3, 1)).mean((1, 2))

    return Dense()


@case()
def a_network_inside_of_data_parallel() -> nn.Module:
    return body(norm=nn.DataParallel(nn.Sequential(moved(nn.BatchNorm2d(6)), nn.ReLU())))


@case(rules=False)
def functions_kept_as_attributes() -> nn.Module:
    class Functional(Body):
        def __init__(self) -> None:
            super().__init__(last=nn.ReLU())
            self.act: Callable[[Tensor], Tensor] = partial(F.leaky_relu, negative_slope=0.3)
            self.end: Callable[[Tensor], Tensor] = torch.tanh

        def forward(self, x: Tensor) -> Tensor:
            return self.above(self.end(self.second(self.act(self.below(x)))))

    return Functional()


# Code that says something else when it is read as a graph


@case()
def a_branch_that_asks_for_a_tensor() -> nn.Module:
    class Asking(Body):
        def below(self, x: Tensor) -> Tensor:
            if isinstance(x, Tensor):
                x = x.square()
            return super().below(x)

    return Asking()


@case()
def a_branch_that_asks_by_type() -> nn.Module:
    class Asking(Body):
        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            return x * 2.5 if type(x) is Tensor or torch.is_tensor(x) else x

    return Asking()


@case()
def a_way_out_when_something_fails() -> nn.Module:
    class Trying(Body):
        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            try:
                return x * (2.0 if len(x) > 0 else 1.0)
            except Exception:
                return x

    return Trying()


@case()
def a_branch_on_an_attribute_of_the_value() -> nn.Module:
    class Marked(Body):
        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            return x - 0.2 if hasattr(x, "mask") else 1.5 * x

    return Marked()


@case()
def a_loop_over_the_images() -> nn.Module:
    class Looping(Body):
        def below(self, x: Tensor) -> Tensor:
            return torch.stack([self.pool(self.relu(self.norm(self.first(image)[None])))[0] for image in x])

    return Looping()


@case()
def a_number_taken_from_the_values() -> nn.Module:
    class Reading(Body):
        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            return torch.cat([image[None] * (2.0 if image.mean().item() > 0.5 else 1.0) for image in x])

    return Reading()


@case()
def features_kept_by_a_hook() -> nn.Module:
    """An extractor: a hook keeps what a layer inside gives, and the forward takes it from there."""

    class Extracting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.second, self.kept = body(), nn.Conv2d(6, 5, 3), {}
            self.inner.relu.register_forward_hook(self.keeping("relu"))

        def keeping(self, name: str) -> Callable[..., None]:
            def hook(module: nn.Module, given: Any, output: Tensor) -> None:
                self.kept[name] = output

            return hook

        def forward(self, x: Tensor) -> Tensor:
            scores = self.inner(x)
            return scores + 3 * self.second(self.kept["relu"]).mean((2, 3))

    return Extracting()


@case()
def a_hook_that_lives_for_one_run() -> nn.Module:
    class Passing(Body):
        def below(self, x: Tensor) -> Tensor:
            kept: list[Tensor] = []
            handle = self.first.register_forward_hook(lambda module, given, output: kept.append(output))
            x = super().below(x)
            handle.remove()
            return x + F.avg_pool2d(kept[0], 2)

    return Passing()


@case()
def a_grid_made_at_the_first_run() -> nn.Module:
    class Lazy(Body):
        def __init__(self) -> None:
            super().__init__()
            self.grid: Tensor | None = None

        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            if self.grid is None or self.grid.shape[0] != x.shape[0]:
                self.grid = torch.linspace(0, 1, x.shape[-1]).to(x).expand_as(x)
            return x * self.grid

    return Lazy()


# In place on what somebody else reads


@case()
def work_in_place_by_position() -> nn.Module:
    class Positional(Body):
        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            y = x - 0.1
            z = F.relu(y, True)
            return self.pool(z + F.avg_pool2d(y, 3, 1, 1) + F.dropout(x, 0.5, False, True))

    return Positional()


@case()
def work_in_place_on_what_a_layer_handed_on() -> nn.Module:
    class Aliased(Body):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.off, self.cut = nn.Identity(), nn.Dropout(0.5), nn.ReLU(inplace=True)

        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            y = self.off(self.same(x))
            y += 0.4
            return self.pool(x + self.cut(self.same(x)) * 0.5)

    return Aliased()


@case()
def work_in_place_on_a_view_of_a_map() -> nn.Module:
    class Viewed(Body):
        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            x.flatten(2).mul_(-1.5)
            x.permute(0, 2, 3, 1).add_(0.3)
            return self.pool(self.relu(x))

    return Viewed()


@case()
def work_in_place_on_what_a_relu6_gave() -> nn.Module:
    """Which PyTorch allows, as the way back of a ReLU6 looks at what it was given."""

    class Adding(Body):
        def __init__(self) -> None:
            super().__init__(relu=nn.ReLU6())
            self.more = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), moved(nn.BatchNorm2d(6)), nn.ReLU6())

        def below(self, x: Tensor) -> Tensor:
            x = self.relu(self.norm(self.first(x)))
            out = self.more(x)
            out += x
            out = F.relu6(out)
            out.mul_(2)
            return self.pool(out.clamp(min=0).sub_(0.1))

    return Adding()


@case()
def a_residual_that_is_added_to_in_place() -> nn.Module:
    class Residual(Body):
        def __init__(self) -> None:
            super().__init__()
            self.more, self.again = nn.Conv2d(6, 6, 3, padding=1), moved(nn.BatchNorm2d(6))

        def below(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            identity = x
            x = self.again(self.more(x))
            x += identity
            identity = x = self.relu(x)
            return self.pool(x.add(identity, alpha=0.5))

    return Residual()


# Weights that change under way


@case()
def weights_given_from_outside() -> nn.Module:
    class Outside(Body):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), moved(nn.BatchNorm2d(6)), nn.ReLU())

        def below(self, x: Tensor) -> Tensor:
            weights = {name: 2 * value for name, value in self.inner.named_parameters()}
            return torch.func.functional_call(self.inner, weights, (super().below(x),))

    return Outside()


@case()
def weights_clamped_by_the_parent() -> nn.Module:
    class Clamping(Body):
        def below(self, x: Tensor) -> Tensor:
            self.first.weight.data.clamp_(-0.1, 0.1)
            self.norm.running_mean.fill_(0.2)
            return super().below(x)

    return Clamping()


@case()
def weights_normed_by_the_parent() -> nn.Module:
    class Norming(Body):
        def below(self, x: Tensor) -> Tensor:
            self.first.weight.data = torch.renorm(self.first.weight.data, 2, 0, 0.3)
            self.head.weight.data = torch.renorm(self.head.weight.data, 2, 0, 0.3)
            return super().below(x)

    return Norming()


@case()
def a_parent_that_sets_the_stride() -> nn.Module:
    class Setting(Body):
        def below(self, x: Tensor) -> Tensor:
            x = super().below(x)
            self.second.stride, self.second.padding = (2, 2), (0, 0)
            return x

        def above(self, x: Tensor) -> Tensor:
            self.second.stride, self.second.padding = (1, 1), (1, 1)
            return super().above(x)

    return Setting()


@case()
def one_norm_for_each_mood() -> nn.Module:
    class Switching(Body):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([moved(nn.BatchNorm2d(6)), moved(nn.BatchNorm2d(6))])

        def below(self, x: Tensor) -> Tensor:
            self.norm = self.norms[0]
            one = super().below(x)
            self.norm = self.norms[1]
            return one + super().below(x)

    return Switching()


@case(rules=False)
def images_mapped_one_by_one() -> nn.Module:
    class Mapped(Body):
        def below(self, x: Tensor) -> Tensor:
            return torch.vmap(lambda image: super(Mapped, self).below(image[None])[0])(x)

    return Mapped()


@case()
def a_branch_without_a_gradient() -> nn.Module:
    class Detached(Body):
        def below(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                gate = super().below(x).sigmoid()
            return super().below(x) * gate + F.avg_pool2d(self.first(x.detach()), 2)

    return Detached()


@case()
def a_head_of_another_type() -> nn.Module:
    class Mixed(Body):
        def __init__(self) -> None:
            super().__init__()
            self.head.double()

        def above(self, x: Tensor) -> Tensor:
            return self.head(self.average(self.last(x)).flatten(1).double()).to(x.dtype)

    return Mixed()


@case()
def weights_of_strange_strides() -> nn.Module:
    network = body()
    network.first.weight = nn.Parameter(torch.randn(6, 3, 1, 1).mul(0.2).expand(6, 3, 3, 3))
    network.second.weight = nn.Parameter(torch.randn(16, 6, 3, 3).mul(0.2)[::2])
    network.head.weight = nn.Parameter(torch.randn(8, CLASSES).mul(0.3).T)
    return network.to(memory_format=torch.channels_last)


@case()
def norms_with_half_of_their_weights() -> nn.Module:
    network = body()
    network.norm.register_parameter("bias", None)
    network.norm.running_var.zero_()
    network.norm.eps = 0.7
    return network


@case()
def a_chain_of_layers_that_share_channels() -> nn.Module:
    class Chained(Body):
        def __init__(self) -> None:
            super().__init__()
            self.order = nn.Buffer(torch.tensor([3, 1, 0, 5, 4, 2]))

        def below(self, x: Tensor) -> Tensor:
            x = self.first(x)[:, self.order]
            x = self.relu(self.norm(x)).index_select(1, self.order)
            return self.pool(torch.where(x > 0.3, x, 0.3 * x).masked_fill(x > 2, 2.0))

    return Chained()


@case(rules=False)
def activations_of_all_kinds() -> nn.Module:
    kinds = [nn.PReLU(6, 0.2), nn.Softsign(), nn.Mish(), nn.CELU(0.5), nn.RReLU(), nn.Softmax2d(), nn.Hardswish()]
    return body(relu=nn.Sequential(*kinds, nn.SiLU(inplace=True), nn.ELU()), last=nn.GELU("tanh"))
