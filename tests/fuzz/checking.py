"""One random network, looked at in all ways, beside plain autograd in float64.

What counts as right is the contract of `exact`: as near to float64 as eager float32 is. A value that lies at the kink
of a ReLU, or two that tie in a max-pool, may fall to either side by rounding; that this is so must show: the float64
map itself has to move as far when the images and all weights move by what rounding moves them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from phosphene.attribution.cam import cam
from phosphene.attribution.deconvnet import deconvnet
from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.guided_backprop import guided_backprop
from phosphene.attribution.hires_cam import hires_cam
from phosphene.attribution.input_x_gradient import input_x_gradient
from phosphene.attribution.integrated_gradients import integrated_gradients
from phosphene.attribution.occlusion import occlusion
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError, PhospheneWarning
from phosphene.runtime import forward
from phosphene.targets import Target
from tests.fuzz.networks import Net, build
from tests.oracles.plain_autograd import Eager, boxes
from tests.robustness.everything import changed, everything

INDICES = (1, 3)
TARGET = Target.of(INDICES)
WINDOW, STRIDE, STEPS = (3, 4), (5, 4), 2
# Rounding in float32, as it arrives at the end of a network of some layers: of a smooth one, and of one with kinks,
# for which the contract speaks of medians.
MOST_OF_SMOOTH, MOST_WITH_KINKS = 1e-5, 3e-5
ROUNDING = 3e-7
PERTURBATIONS = 12
# Where rounding moves a map by as much, it has kinks all over or is the rest of what cancels: nothing is said of it.
UNRESOLVED = 0.2
# Maps of these values are as good as zero.
NOTHING = 1e-2
# The contract's 1.2 is of medians over photographs; of a single ill-conditioned network chance takes more.
MORE_THAN_EAGER = 5
# Weights times -1/2 change scores by far more than rounding does, also that of a norm of what is all but constant.
STALE = 1e-2
# A map that is by so much smaller than what is summed up in it is known no better than that. (A weight of Grad-CAM that
# is MOST_OF_SMOOTH of its gradients' magnitude counts as what rounding leaves: there all of it stands beside the map.)
CANCELED, CANCELED_WEIGHTS = 0.1, 1.0

Images = Tensor
Wanted = Callable[[Eager, Images], Tensor]


@dataclass(frozen=True)
class Way:
    """A way of looking at a network.

    Args:
        name: of the method.
        ours: what the library gives.
        plain: what plain autograd gives.
        summands: magnitudes of what is summed up in it, (N, ...); None for what is no sum.
        canceled: a map that is by so much smaller than these is known no better than that.
    """

    name: str
    ours: Callable[[Classifier, Images], Tensor]
    plain: Wanted
    summands: Wanted | None = None
    canceled: float = CANCELED

    def error(self, got: Tensor, wanted: Tensor, truth: Eager, images: Tensor) -> float:
        """The largest difference of an image, as a part of the largest value or of what is summed up there."""
        if not bool(torch.isfinite(wanted).all() and torch.isfinite(got).all()):
            return 0.0 if torch.equal(torch.isfinite(got), torch.isfinite(wanted)) else float("inf")
        scale = wanted.abs().flatten(1).amax(1)
        if self.summands is not None:
            scale = scale.maximum(self.canceled * self.summands(truth, images).abs().flatten(1).amax(1))
        return float(((got - wanted).abs().flatten(1).amax(1) / scale.clamp(min=NOTHING)).max())


@dataclass(frozen=True)
class Trial:
    """A network with two images."""

    net: Net

    @cached_property
    def images(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.net.seed)
        return torch.rand(2, self.net.channels, *self.net.size, generator=generator)

    @property
    def _normal(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return (0.4, 0.5, 0.6, 0.3)[: self.net.channels], (0.2, 0.25, 0.3, 0.5)[: self.net.channels]

    @cached_property
    def classifier(self) -> Classifier:
        return Classifier(build(self.net), Preprocess(self.net.size, None, *self._normal))

    @cached_property
    def truth(self) -> Eager:
        """In float64, of the weights as they are rounded."""
        return Eager(build(self.net).double(), *self._normal)

    @cached_property
    def eager(self) -> Eager:
        """In float32."""
        return Eager(build(self.net).float(), *self._normal)

    @property
    def _pools_places(self) -> bool:
        """Whether the last pool is given several places: of one the map lies where they were averaged before."""
        maps = self.eager.cam(self.images, INDICES, pool="pool", head="head")
        return maps[0].numel() > 1

    @property
    def is_run_by_pytorch(self) -> bool:
        """Whether PyTorch itself takes a gradient; not of work in place on what the way back needs, say.

        Of the images alone: oneDNN's kernel for the gradient of a small 1 x 1 convolution's weights writes past its
        buffer where a processor has AVX2 and no more (PyTorch 2.13).
        """
        try:
            module = build(self.net).float()
            for images in (self.images, *self.images.split(1)):
                leaf = images.clone().requires_grad_()
                torch.autograd.grad(module(leaf * 1.0).sum(), leaf)
        except (RuntimeError, ValueError):
            return False
        return True

    def perturbed(self, index: int) -> tuple[Eager, Tensor]:
        """The network and its images, what each layer gives moved by rounding; the same moves for the same index.

        The gradient of a norm, too: what it takes off of that is rounded before it is divided by a spread that may be
        next to nothing (of one channel, of values all but constant).
        """
        generator = torch.Generator().manual_seed(index)
        module = build(self.net).double()

        def moved(values: Tensor) -> Tensor:
            noise = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values)
            usual = values.detach().abs()
            return values + ROUNDING * noise * (usual + usual.mean())

        def hook(module: nn.Module, given: tuple[object, ...], output: object) -> Tensor | None:
            if not isinstance(output, Tensor):
                return None
            if not given or not isinstance(given[0], Tensor) or not _takes_its_mean(module):
                return moved(output)
            mean, shrunk = _of_own_mean(module, given[0])
            if given[0].requires_grad:

                def grown(gradient: Tensor) -> None:
                    noise = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
                    rounded.append(ROUNDING * noise * gradient.abs() / shrunk)

                rounded: list[Tensor] = []
                output.register_hook(grown)
                given[0].register_hook(lambda gradient: gradient + rounded.pop() if rounded else gradient)
            return moved(output) + ROUNDING * mean * torch.randn((), generator=generator, dtype=torch.float64)

        for child in module.modules():
            if next(child.children(), None) is None:
                child.register_forward_hook(hook)
        return Eager(module, *self._normal), moved(self.images.double())

    @cached_property
    def layer(self) -> str | None:
        """A convolution that runs once, whose output has positions; a later one for odd seeds."""
        module, runs = self.truth.module, dict[str, int]()
        handles = [
            child.register_forward_hook(_counting(runs, name))
            for name, child in module.named_modules()
            if isinstance(child, nn.Conv2d)
        ]
        self.truth.logits(self.images[:1].double())
        for handle in handles:
            handle.remove()
        names = [name for name, count in runs.items() if count == 1]
        return names[-1 if self.net.seed % 2 else len(names) // 2] if names else None

    def ways(self) -> Iterator[Way]:
        """All that fit the network; the first is the simplest."""
        yield Way("scores", forward, Eager.logits)
        yield Way("saliency", _maps(saliency), _of_classes(Eager.saliency))
        yield Way("saliency of one image", _of_one, lambda eager, images: eager.saliency(images[:1], INDICES[:1]))
        summands = _of_classes(Eager.gradient)
        yield Way("input_x_gradient", _maps(input_x_gradient), _of_classes(Eager.input_x_gradient), summands)
        paths = _maps(integrated_gradients, steps=STEPS), _of_classes(Eager.integrated_gradients, steps=STEPS)
        yield Way("integrated_gradients", *paths, summands)
        yield Way("occlusion", _covered, _of_classes(Eager.occlusion, boxes=boxes(self.net.size, WINDOW, STRIDE)))
        if self.layer is not None:
            summands = self._layer_summands
            for name, method, plain, canceled in (
                ("grad_cam", grad_cam, Eager.grad_cam, CANCELED_WEIGHTS),
                ("hires_cam", hires_cam, Eager.hires_cam, CANCELED),
            ):
                ours, wanted = _maps(method, layer=self.layer), _of_classes(plain, name=self.layer)
                yield Way(name, ours, wanted, summands, canceled)
        if self.net.head == "pool" and self._pools_places:
            yield Way("cam", _maps(cam), _of_classes(Eager.cam, pool="pool", head="head"))
        if self.net.rectified:
            for name, method in (("deconvnet", deconvnet), ("guided_backprop", guided_backprop)):
                yield Way(name, _back(method), _of_classes(Eager.reconstruction, rule=name))

    def _layer_summands(self, eager: Eager, images: Tensor) -> Tensor:
        outputs, gradients = eager.layer(images, INDICES, self.layer or "")
        return (gradients.abs().mean((2, 3), keepdim=True) * outputs.abs()).sum(1)

    def failures(self) -> dict[str, str]:
        """Per way that is wrong, by how much, and what would have been allowed."""
        before = everything(self.classifier.module)
        found = {way.name: self._failure(way) for way in self.ways()}
        touched = changed(before, everything(self.classifier.module))
        found["touched"] = ", ".join(touched[:3]) or None
        found["stale"] = self._stale()
        return {name: failure for name, failure in found.items() if failure is not None}

    def _stale(self) -> str | None:
        """What is wrong once a parameter was changed past all counting."""
        for module in (self.classifier.module, self.truth.module, self.eager.module):
            parameters = list(module.parameters())
            parameters[self.net.seed % len(parameters)].data.mul_(-0.5)
        way = next(self.ways())
        got, images = self._given(way), self.images.double()
        if not isinstance(got, Tensor):
            return got
        wanted = way.plain(self.truth, images)
        error = way.error(got, wanted, self.truth, images)
        eager = way.error(way.plain(self.eager, self.images), wanted, self.truth, images)
        return None if error <= MORE_THAN_EAGER * eager + STALE else f"off by {error:.2g}"

    def _failure(self, way: Way) -> str | None:
        wanted, got = way.plain(self.truth, self.images.double()), self._given(way)
        if not isinstance(got, Tensor):
            return got
        if got.shape[0] != wanted.shape[0] or got.numel() != wanted.numel():
            return f"{tuple(got.shape)} instead of {tuple(wanted.shape)}"
        error = way.error(got.view(wanted.shape), wanted, self.truth, self.images.double())
        return None if error <= self._most else self._excused(way, wanted, error)

    def _given(self, way: Way) -> Tensor | str | None:
        """What the library gives, or why not; None for a refusal that is in order."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PhospheneWarning)
                return way.ours(self.classifier, self.images)
        except ModelError as error:
            return None if self._may_refuse(way, str(error)) else f"refused: {error}"
        except Exception as error:
            return repr(error)

    @property
    def _most(self) -> float:
        return MOST_OF_SMOOTH if self.net.smooth else MOST_WITH_KINKS

    def _may_refuse(self, way: Way, message: str) -> bool:
        """Class activation maps need a plain head; rules end at the hooks of others."""
        return way.name == "cam" and "no class activation map" in message

    def _excused(self, way: Way, wanted: Tensor, error: float) -> str | None:
        """None for an error such as eager float32 makes too, or that moving everything by rounding makes."""
        images = self.images.double()
        eager = way.error(way.plain(self.eager, self.images), wanted, self.truth, images)
        if error <= MORE_THAN_EAGER * eager + self._most:
            return None
        moves = [eager]
        for index in range(PERTURBATIONS):
            network, moved = self.perturbed(index)
            moves.append(way.error(way.plain(network, moved), wanted, self.truth, images))
            # (what rounding does within a layer, and in code between layers, shows in float32 alone)
            moves.append(way.error(way.plain(self.eager, moved.float()), wanted, self.truth, images))
            if error <= MORE_THAN_EAGER * max(moves) + self._most or max(moves) > UNRESOLVED:
                return None
        return f"off by {error:.2g}, eager float32 by {eager:.2g}, with what rounding moves by {max(moves):.2g}"


def _takes_its_mean(module: nn.Module) -> bool:
    """Whether it is a norm that takes off the mean of what it is given."""
    if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
        return False
    return isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._NormBase)


def _of_own_mean(module: nn.Module, given: Tensor) -> tuple[Tensor, Tensor]:
    """(the mean as the norm divides it, what it divides by), both of the values that it is given."""
    values = given.detach()
    if isinstance(module, nn.GroupNorm):
        values = values.unflatten(1, (module.num_groups, -1))
    places = (-1,) if isinstance(module, nn.LayerNorm) else tuple(range(2, values.ndim))
    spread = (values.var(places, correction=0, keepdim=True) + module.eps).sqrt()
    mean = values.abs().mean(places, True) / spread
    return mean.expand_as(values).reshape(given.shape), spread.expand_as(values).reshape(given.shape)


def _counting(runs: dict[str, int], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, given: object, output: Tensor) -> None:
        runs[name] = runs.get(name, 0) + 1

    return hook


def _of_classes(plain: Callable[..., Tensor], **options: object) -> Wanted:
    return lambda eager, images: plain(eager, images, INDICES, **options)


def _maps(method: Callable[..., object], **options: object) -> Callable[[Classifier, Tensor], Tensor]:
    return lambda classifier, images: method(classifier, images, TARGET, **options).maps


def _back(method: Callable[..., object]) -> Callable[[Classifier, Tensor], Tensor]:
    return lambda classifier, images: method(classifier, images, TARGET).reconstruction


def _of_one(classifier: Classifier, images: Tensor) -> Tensor:
    return saliency(classifier, images[:1], Target.of(INDICES[:1])).maps


def _covered(classifier: Classifier, images: Tensor) -> Tensor:
    return occlusion(classifier, images, TARGET, window=WINDOW, stride=STRIDE, fill="black").maps.flatten(1)
