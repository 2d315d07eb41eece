"""A private copy of a network that all of its variants are made of, and what was found out about it."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import finalize

import numpy as np
import torch
from torch import Tensor, fx, nn

from phosphene.autograd_graph import graph_nodes
from phosphene.axes import CHANNELS, WHOLE, Follow, is_tokens_first
from phosphene.classifier import Classifier
from phosphene.devices import own_random_state
from phosphene.errors import ModelError, PhospheneError
from phosphene.fixed_inputs import FixedInputs
from phosphene.graph import (
    candidate_layers,
    check_inside,
    default_layer,
    graph_module,
    is_changed,
    spatial_map,
    spatial_size,
    trace,
    with_value,
)
from phosphene.hooks import ValueHooks, capture, is_scripted, survey
from phosphene.kernels import Arithmetic, accelerate, restore
from phosphene.runtime.first_look import FirstLook, first_look, integer_layer, norms_by_batch
from phosphene.runtime.freeze import duplicate, freeze
from phosphene.runtime.norms import right_norms
from phosphene.runtime.placement import FEWEST, QUARTERS, Moved, Placement, how_moved
from phosphene.runtime.precision import uncompiled, whole_float32
from phosphene.runtime.state import State
from phosphene.types import Layer, Layout, Size

# Of the largest score: by so much an image's scores may differ in a batch, as sums are made in another order there.
_SAME = 5e-5
# Of the largest gradient at the image itself: a smaller one at another is none.
_NO_GRADIENT = 1e-9
# As a part of the root mean square: how far another form of a network may be from it in float32, and in bfloat16, and
# how far its gradient beyond that, as values lie at the kinks of ReLUs.
_NEARLY, _ROUGHLY, KINKS = 1e-4, 0.3, 0.3
# Of the largest gradient at a layer: by no more do those of its places differ that say nothing of where they are.
_FLAT = 1e-3


class Network:
    """The frozen copy of a classifier's network; variants of it share its weights.

    Args:
        source: the classifier, whose own module is not touched.

    Attributes:
        module: the copy, as it was written.
        first_look: what was seen when the first images came; None before, or where nothing could be seen.
        state: what the network held before it ever ran.
        moves: whether its passes change what later ones give, so that each has to begin with that state.
        compared: kinds of passes of which a batch was compared with an image alone, by shape of an image, size of the
            batch and what they give.
        right_windows: whether windows of its maps give what whole maps give, by precision, size and boxes.
    """

    def __init__(self, source: Classifier) -> None:
        with own_random_state():  # (a layer may be made anew when the modes are set)
            self.module = freeze(source.module)
        self.classifier = source.with_module(self.module)
        self.first_look: FirstLook | None = None
        self.state = State(self.module)
        self.moves = False
        self.compared: set[tuple[object, ...]] = set()
        self.right_windows: dict[tuple[object, ...], bool] = {}
        self._flat: dict[str, bool] = {}
        self._of_units: dict[str, str] = {}
        self._passed_by: dict[str, float] = {}
        self._moved: dict[str, Moved | None] = {}
        self._of_size: dict[Size, list[Layer]] = {}
        self._seeing: dict[str, bool] = {}
        self._size: Size | None = None  # of the first images
        self._answers: dict[torch.Size, tuple[Tensor, Tensor] | None] = {}  # by shape of an image
        self._lock = threading.RLock()
        self._variants: dict[Arithmetic, tuple[nn.Module, fx.GraphModule | None]] = {}
        self._graphs: list[fx.GraphModule] = []
        finalize(self, _let_go, self._graphs, self._variants)

    @cached_property
    def _graph(self) -> tuple[fx.Graph, dict[str, Any]] | None:
        """(the graph, constants that tracing made), or None where the network's code depends on data.

        A copy is traced: running a network on stand-ins for tensors may leave some of them in its attributes. A graph
        that does not give what the network gives (its code asked what kind of value it has) is none.
        """
        # Without gradients, as graphs are run; code that asks for them is of two minds, and no graph.
        with own_random_state(), torch.no_grad():
            traced = trace(duplicate(self.module, _tensors(self.module)))
        if traced is None or not self._gives_the_same(traced, _NEARLY):
            return None
        constants = {key: value for key, value in vars(traced).items() if isinstance(value, Tensor)}
        constants |= {key: value for key, value in traced.named_buffers() if key.startswith("_tensor_constant")}
        traced._modules.clear()  # (the graph holds what it was made of)
        return traced.graph, constants

    @cached_property
    def _own_traced(self) -> fx.GraphModule | None:
        return self._traced(self.module)

    def _traced(self, module: nn.Module) -> fx.GraphModule | None:
        """The graph, run with the layers of `module`, a copy of the network."""
        if self._graph is None:
            return None
        graph, constants = self._graph
        root = {str(node.target): None for node in graph.nodes if node.op in ("call_module", "get_attr")}
        values = {name: constants[name] if name in constants else _attribute(module, name) for name in root}
        return self.kept(graph_module(values, graph))

    def kept(self, traced: fx.GraphModule) -> fx.GraphModule:
        """A graph of this network, which lets go of the network's layers when this object goes."""
        self._graphs.append(traced)
        return traced

    def variant(self, arithmetic: Arithmetic) -> tuple[nn.Module, fx.GraphModule | None]:
        """(the network, its graph) that computes as asked for; the same one each time."""
        with self._lock:
            if self.as_written:
                return self.module, self._own_traced
            if arithmetic not in self._variants:
                if is_scripted(self.module) or self.classifier.device.type != "cpu":
                    return self.module, self._own_traced
                # Outside of inference mode, whoever asks: packed weights made inside could not be used for gradients.
                with torch.inference_mode(False), torch.no_grad(), own_random_state():
                    module = duplicate(self.module, _tensors(self.module))
                    traced = self._traced(module)
                    # A hook or a patched forward may call other layers, which the graph does not show.
                    told = None if any(map(is_changed, module.modules())) else traced
                    module = accelerate(module, told, arithmetic)
                self._variants[arithmetic] = module, traced
                short = arithmetic.forward != torch.float32
                if not self._gives_the_same(module, _ROUGHLY if short else _NEARLY, arithmetic.forward):
                    restore(module)
            return self._variants[arithmetic]

    def _gives_the_same(self, module: nn.Module, room: float, dtype: torch.dtype = torch.float32) -> bool:
        """Whether another form of the network has its scores for noise, and its gradient but for kinks of ReLUs.

        What the network itself does not run on says nothing.
        """
        expected = self._answer
        if expected is None:
            return True
        try:
            scores, gradient = self._answered(module, dtype)
        except Exception:  # code of the network's own may raise anything
            return False
        if scores.shape != expected[0].shape or not near(scores, expected[0], room):
            return False
        return near(gradient, expected[1], KINKS + room)

    @property
    def _answer(self) -> tuple[Tensor, Tensor] | None:
        """(scores, their gradient) of one image of noise by the network as it was written."""
        if self._image not in self._answers:
            try:
                self._answers[self._image] = self._answered(self.module, torch.float32)
            except Exception:  # code of the network's own may raise anything
                self._answers[self._image] = None
        return self._answers[self._image]

    def _answered(self, module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        leaf = self._noise(self._image)[:1].clone(memory_format=torch.channels_last).requires_grad_()
        self._begin()
        with trial(leaf.device, gradients=True):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            with torch.autocast(leaf.device.type, dtype=torch.bfloat16, enabled=dtype != torch.float32):
                scores = self.classifier.rows(self.classifier.run(module, leaf), 1).float()
            if not scores.requires_grad:
                return scores, torch.zeros_like(leaf)
            with right_norms(scores):
                (gradient,) = torch.autograd.grad(scores.square().sum(), leaf, allow_unused=True)
        return scores.detach(), torch.zeros_like(leaf) if gradient is None else gradient.float()

    def told(self, inputs: FixedInputs) -> None:
        """Try the network out with these inputs besides the pictures, if nobody said before which it takes."""
        if self.classifier.inputs.of_item is not None:
            self.classifier.inputs = inputs

    @property
    def as_written(self) -> bool:
        """Whether it runs as it was written: another form would not do what it does."""
        look = self.first_look
        return self.contiguous or self.moves or (look is not None and (look.draws or look.seeds or look.asks))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, one pass forward: of a network that its passes change each with the state that it was given in."""
        with self._lock if self.moves else nullcontext():
            if self.moves:
                self.state.restore()
            yield

    def _begin(self) -> None:
        """Before a trial: until it is known whether they matter, changes by former passes are taken back."""
        if self.moves or self.first_look is None:
            self.state.restore()

    @property
    def contiguous(self) -> bool:
        """Whether images have to be laid out plainly, and the maps in it too: the network takes views of them."""
        look = self.first_look
        return look is not None and look.memory_format is torch.contiguous_format

    def look(self, size: Size, source: nn.Module) -> FirstLook:
        """What one image of noise shows of the network; taken when the first images come, and what is worth it said.

        Args:
            size: of the images.
            source: what it is a copy of.
        """
        with self._lock:
            if self.first_look is None:
                self._size = size
                found = self._looked()
                if self.state.writes_weights():  # (so that each pass can begin with those that it was given)
                    self._take_again(source)
                    found = self._looked()
                if found is None or found.asks:  # (it may fail for want of weights that have a gradient)
                    self._thaw(source)
                    found = self._looked()
                    if found is None:
                        self.module.requires_grad_(False)
                self.moves = self._moves(found)
                self.first_look = found
                if found is not None:
                    found.say()
                if self.as_written:
                    self._restore()
            return self.first_look or FirstLook(head=self.classifier.head)

    def lay_out_plainly(self) -> None:
        """Give images in contiguous NCHW from now on, without the kernels that change the layout of their outputs."""
        with self._lock:
            look = self.first_look or FirstLook(head=self.classifier.head)
            self.first_look = replace(look, memory_format=torch.contiguous_format)
            self._restore()

    def _restore(self) -> None:
        for module, _ in self._variants.values():
            restore(module)

    def _moves(self, look: FirstLook | None) -> bool:
        """Whether passes change what later ones give: a count, a running statistic, an observer, a result that is kept.

        What is made at the first pass and stays (a grid of positions) does not, nor what is merely kept of each pass.
        """
        if not self.state.is_changed():
            return False
        image, settled = _laid_out(self._noise(self._image)[1:], look), State(self.module)
        with trial(image.device):
            try:
                later = self._rows_now(image)
                counts = settled.counts()
                self.state.restore()
                first = self._rows_now(image)
            except (RuntimeError, PhospheneError):  # whatever it is, the pass itself will say so better
                return True
        return counts or not torch.equal(first, later)

    def _looked(self) -> FirstLook | None:
        """A first look that is kept; None where memory or the network does not allow it, which the pass will say."""
        classifier = self.classifier
        try:
            with whole_float32("exact"), uncompiled():
                found = first_look(self._rows, self._noise(self._image)[:1], classifier.name, classifier.head)
        except (RuntimeError, MemoryError):
            return None
        if found is not None:
            found = replace(found, integers=integer_layer(self.module))
        return found

    def _thaw(self, source: nn.Module) -> None:
        """Let weights say that they have a gradient, or have none, as the original's do; none is ever asked for."""
        given = dict(source.named_parameters(remove_duplicate=False))
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            if name in given and parameter.is_floating_point():
                parameter.requires_grad_(given[name].requires_grad)

    def _take_again(self, source: nn.Module) -> None:
        """Parameters as the original has them, and all of them kept."""
        self.state.restore()
        given = dict(source.named_parameters(remove_duplicate=False))
        with torch.inference_mode(False), torch.no_grad():
            for name, parameter in self.module.named_parameters(remove_duplicate=False):
                if name in given and given[name].shape == parameter.shape:
                    parameter.data.copy_(given[name].detach())
        self.state = State(self.module, whole=True)

    def _rows(self, images: Tensor) -> Tensor:
        """(N, K) what the network as it was written returns, whatever its head: that is known after the first look."""
        self._begin()
        return self._rows_now(images)

    def _rows_now(self, images: Tensor) -> Tensor:
        return self.classifier.rows(self.classifier.run(self.module, images), len(images))

    @property
    def size(self) -> Size:
        """(height, width) of the images that the network is tried out on."""
        return self.classifier.preprocess.size or self._size or (224, 224)

    @property
    def _image(self) -> torch.Size:
        return torch.Size((self.classifier.preprocess.channels, *self.size))

    @cached_property
    def layers(self) -> list[Layer]:
        """Every layer that runs, in the order of completion, with the shape and the layout of its output."""
        return self._survey(self.size)

    def _survey(self, size: Size) -> list[Layer]:
        classifier = self.classifier
        images = _laid_out(classifier.mean_image.expand(1, -1, *size).contiguous(), self.first_look)
        with self._lock, classifier.clear_refusal(images), trial(images.device):
            self._begin()
            inputs = classifier.preprocess.normalize(images).to(classifier.dtype)
            found = survey(self.module, inputs, classifier.called)
        return [_read_as(classifier.layouts.get(layer.name), layer) for layer in found]

    @property
    def is_surveyed(self) -> bool:
        """Whether `layers` are known."""
        return "layers" in vars(self)

    def layout(self, layer: str, *, fed: bool = False) -> Layout | None:
        """Which axis of a layer's output, or of what it is fed, holds the channels; None where nothing says."""
        layer = self._first_names.get(layer, layer)
        if layer in self.classifier.layouts and not fed:
            return self.classifier.layouts[layer]
        found = next((found for found in self.layers if found.name == layer), None)
        return None if found is None else found.fed if fed else found.layout

    @cached_property
    def _first_names(self) -> dict[str, str]:
        """The first name, by which layers are known, of each module by its others."""
        first = {id(child): name for name, child in self.module.named_modules()}
        every = self.module.named_modules(remove_duplicate=False)
        return {name: first[id(child)] for name, child in every if first[id(child)] != name}

    def averages_places(self, node: str) -> bool:
        """Whether the last two axes of a value of the graph are the picture's rows and columns, as far as is known."""
        if self._own_traced is None:
            return True
        graph = self.kept(with_value(self._own_traced, node))
        with self._lock, trial(self.classifier.device), Follow() as follow:
            try:
                _, value = self.classifier.run(graph, follow.name(self._noise(self._image)[:1], "NCPP"))
            except (RuntimeError, PhospheneError):  # whatever it is, the pass itself will say so better
                return True
            axes = follow.axes(value)
        if axes is None or len(axes) != 4:
            return axes is None
        regrouped = any(len(axis) > 1 for axis in axes[2:])
        whole = not regrouped or spatial_size(tuple(value.shape[1:]), self.size, "NCHW") is not None
        return whole and not any(name == CHANNELS for axis in axes[2:] for name, _ in axis)

    def tokens_first(self, layers: Iterable[str]) -> frozenset[str]:
        """Those of these layers whose tokens come before the images, (T, N, C)."""
        return frozenset(layer for layer in layers if is_tokens_first(self.layout(layer)))

    @cached_property
    def default_layer(self) -> str:
        """The layer that CAM methods look at unless told otherwise."""
        self._check_layers()
        return default_layer(self.layers, self.size, self._positions_reached, network=self.classifier.name)

    @property
    def candidate_layers(self) -> list[str]:
        """The layers whose output is a map of the image's places, the last first."""
        self._check_layers()
        return candidate_layers(self.layers, self.size)

    def _check_layers(self) -> None:
        """Refuse a network that has no layers to be looked at."""
        check_inside(self.module, self.classifier.name)
        if is_scripted(self.module):
            raise ModelError(
                f"{self.classifier.name} is TorchScript, which runs as one piece without layers; use a method that "
                "looks at input and output alone (saliency, occlusion, rise), or the network as torch.export.save "
                "writes it"
            )

    def flat_layers(self, layers: Sequence[str]) -> frozenset[str]:
        """Those of these layers, whose outputs have places, at which the gradient of a class says nothing of them.

        There every place that a class's score depends on counts alike, as behind the last layer that is no average: a
        map of the gradient shows where there is any, and no more. Looked at on an image of noise, for its best class.
        """
        asked = [layer for layer in layers if layer not in self._flat]
        found = self._noise_gradients(asked, lambda logits, _: logits.amax()) if asked else {}
        self._flat.update({layer: layer in found and _is_flat(found[layer]) for layer in asked})
        return frozenset(layer for layer in layers if self._flat[layer])

    def passed_by(self, layer: str) -> float:
        """The share, 0 to 1, of the gradient of the best class of noise that reaches the image past a layer.

        0 where there is none, or the layer runs several times. Tried out once.
        """
        if layer not in self._passed_by:
            once = all(found.calls == 1 for found in self.layers if found.name == layer)
            self._passed_by[layer] = self._past(layer) if once else 0.0
        return self._passed_by[layer]

    def _past(self, layer: str) -> float:
        with self._lock, trial(self.classifier.device, gradients=True):
            images = self._noise(self._image)[:1].requires_grad_()
            with capture(self.module, [layer], tokens_first=self.tokens_first([layer])) as found:
                value = self._rows(images).amax()
            output = found.get(layer)
            if output is None or not (value.requires_grad and output.requires_grad):
                return 0.0
            whole, given = _gradients(value, [images, output], again=True)
            through = None if given is None else _gradients((output * given).sum(), [images])[0]
            if whole is None or through is None:
                return 0.0
            around, inside = (float(part.float().abs().sum()) for part in (whole - through, through))
        return around / (around + inside) if 0 < around + inside < math.inf else 0.0

    def placement(self, layer: str, size: Size) -> Placement:
        """Where in pictures of a size the places of a layer lie; tried out once where an operation may move them."""
        moved = any(found.moved for found in self.layers if found.name == layer)
        if layer not in self._moved:
            self._moved[layer] = self._how_moved(layer) if moved else None
        seen = {found.name: found.seen for found in self._surveyed(size)}
        return Placement(seen.get(layer, WHOLE), self._moved[layer])

    def _surveyed(self, size: Size) -> list[Layer]:
        """The layers as they run on pictures of a size: a cut may leave a part of another share of these."""
        if size == self.size or all(found.seen == WHOLE for found in self.layers):
            return self.layers
        if size not in self._of_size:
            self._of_size[size] = self._survey(size)
        return self._of_size[size]

    def _how_moved(self, layer: str) -> Moved | None:
        """How a layer sees noise turned, by the gradients of three of its cells; each by itself, to spare memory."""
        try:
            found = [self._answers_to(layer, quarter) for quarter in QUARTERS]
        except (RuntimeError, PhospheneError):  # whatever it is, the pass itself will say so better
            return None
        answers = [answer for answer in found if answer is not None]
        return how_moved(torch.stack(answers)) if len(answers) == len(QUARTERS) else None

    def _answers_to(self, layer: str, quarter: tuple[int, int]) -> Tensor | None:
        """(H, W) how much the cell in the middle of a quarter answers to each pixel; None where nothing says."""
        with self._lock, trial(self.classifier.device, gradients=True):
            images = self._noise(self._image)[:1].requires_grad_()
            with capture(self.module, [layer], tokens_first=self.tokens_first([layer])) as found:
                self._rows(images)
            output = found.get(layer)
            places = None if output is None else spatial_size(tuple(output.shape[1:]), self.size, self.layout(layer))
            if output is None or places is None or min(places) < FEWEST or not output.requires_grad or len(output) != 1:
                return None
            values = spatial_map(output, f"layer {layer}", images, self.layout(layer))[0]
            row, column = ((1 + 2 * half) * cells // 4 for half, cells in zip(quarter, places, strict=True))
            generator = torch.Generator().manual_seed(0)
            weights = torch.randn(len(values), generator=generator, device="cpu").to(values)
            (gradient,) = _gradients((values[:, row, column] * weights).sum(), [images])
        return None if gradient is None else gradient.float().square().sum(dim=(0, 1)).cpu()

    def layer_of_unit(self, layer: str) -> str:
        """Where to look for what a unit of a layer responds to: the last layer with places that ends before it begins.

        One that it is computed from, at several places; where there is none, the unit's own layer.
        """
        if layer not in self._of_units:
            self._of_units[layer] = self._layer_of_unit(layer)
        return self._of_units[layer]

    def _layer_of_unit(self, layer: str) -> str:
        names = [found.name for found in self.layers]
        if layer not in names:
            return layer  # (the pass will say so better)
        ended = self.layers[: names.index(layer)]
        inside = f"{layer}."
        before = [found.name for found in ended if found.name and not found.name.startswith(inside)]
        candidates = [found for found in candidate_layers(ended, self.size) if found in before]
        reached = self._noise_gradients([*candidates, layer], lambda _, outputs: outputs[layer].float().square().sum())
        fed = (found for found in candidates if found in reached and int(reached[found].any(dim=1).sum()) >= 2)
        return next(fed, layer)

    def _noise_gradients(
        self, layers: Sequence[str], score: Callable[[Tensor, dict[str, Tensor]], Tensor]
    ) -> dict[str, Tensor]:
        """(1, k, h, w) the gradient of a score of noise at each of the layers that it reaches and that has places."""
        # Locked as `variant` is: a variant made meanwhile would be a copy with the hooks of this look, for good.
        with self._lock, trial(self.classifier.device, gradients=True):
            images = self._noise(self._image)[:1].requires_grad_()
            with capture(self.module, layers, tokens_first=self.tokens_first(layers)) as found:
                logits = self._rows(images)
            value = score(logits, found)
            there = [layer for layer in layers if layer in found and found[layer].requires_grad]
            if not (value.requires_grad and there):
                return {}
            gradients = _gradients(value, [found[layer] for layer in there])
        return {
            layer: spatial_map(gradient, layer, images, self.layout(layer))
            for layer, gradient in zip(there, gradients, strict=True)
            if gradient is not None and spatial_size(tuple(gradient.shape[1:]), self.size, self.layout(layer))
        }

    def sees_picture(self, layer: str) -> bool:
        """Whether what a layer gives hangs on the picture, not on other inputs or a kept picture; tried out once.

        Of a network that takes the picture alone every layer is taken to that runs once.
        """
        # (Before the first images came nobody knows of which size to look at layers.)
        known = self.layers if self.first_look is not None else []
        once = all(found.calls == 1 for found in known if found.name == layer)
        return (once and not self.classifier.inputs.values) or self._is_moved(layer)

    def _is_moved(self, layer: str) -> bool:
        """Whether a layer gives something else of another image."""
        with self._lock:
            if layer not in self._seeing:
                with trial(self.classifier.device):
                    noise = self._noise(self._image)
                    one, other = (self._given_by(layer, image) for image in (noise[:1], noise[1:2]))
                self._seeing[layer] = one is None or other is None or not torch.equal(one, other)
            return self._seeing[layer]

    def _given_by(self, layer: str, images: Tensor) -> Tensor | None:
        """The output of a layer; None if it does not run."""
        with capture(self.module, [layer]) as found:
            self.classifier.run(self.module, images)
        return found.get(layer)

    def _positions_reached(self, layers: Sequence[str]) -> dict[str, int]:
        """At how many positions of some layers the scores of noise see a change; without those off the way to them."""
        # Of what nobody knows the axes it may be the weights of positions, laid out as they are.
        sure = [layer for layer in layers if self.sees_picture(layer)]
        asked = [layer for layer in sure if self.layout(layer) is not None or self._is_moved(layer)]
        # Locked as `variant` is: a variant made meanwhile would be a copy with the hooks of this look, for good.
        with self._lock, trial(self.classifier.device, gradients=True):
            images = self._noise(self._image)[:1].requires_grad_()
            with capture(self.module, asked, edit=_leaf, tokens_first=self.tokens_first(asked)) as found:
                logits = self._rows(images)
            # (Not the parts of a picture, as a detector cuts them out.)
            there = [layer for layer in asked if layer in found and len(found[layer]) == 1]
            if not (logits.requires_grad and there):
                return {}
            # Unequal weights: the sum of probabilities is 1 whatever the image.
            weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), device="cpu").to(logits)
            gradients = _gradients((logits * weights).sum(), [found[layer] for layer in there])
        return {
            layer: _places_with(gradient, layer, images, self.layout(layer))
            for layer, gradient in zip(there, gradients, strict=True)
            if gradient is not None
        }

    def images_are_independent(self, image: torch.Size, count: int = 2) -> bool:
        """Whether the scores of an image of this shape are the same whatever else is in its batch; tried out once.

        They are not if the network takes no more than one image.

        Args:
            image: shape of one.
            count: of a batch that is tried out: with a batch of another size a network may do otherwise.
        """
        with self._lock:
            for size in (2, max(2, count)):
                if (image, size) not in self.independent:
                    self.independent[image, size] = self._are_independent(image, size)
            return all(alike for (shape, _), alike in self.independent.items() if shape == image)

    @cached_property
    def independent(self) -> dict[tuple[torch.Size, int], bool]:
        """By shape of an image and size of a batch, as far as it was tried out."""
        return {}

    def _are_independent(self, image: torch.Size, count: int) -> bool:
        if self.first_look is not None and self.first_look.reads:  # (it would have to be tried with every value)
            return False
        images = self._noise(image, count)
        with trial(images.device):
            try:
                alone = [self._rows(end) for end in (images[:1], images[-1:], images[:1])]
                try:
                    with Follow() as follow:
                        given = self.classifier.run(self.module, follow.name(images, "NCPP"))
                except ModelError:  # it takes one image and no batch
                    return False
                together = self.classifier.rows(given, count)[[0, -1]]
            except (RuntimeError, PhospheneError):  # whatever it is, the pass itself will say so better
                return True
        if not torch.equal(alone[0], alone[2]):  # (a network that draws random numbers: nothing can be told)
            return True
        single = torch.cat(alone[:2])
        alike = together.shape == single.shape and _is_rounded(together, single)
        return alike and not follow.joins and not self._are_mixed(images)

    def _are_mixed(self, images: Tensor) -> bool:
        """Whether the scores of an image have a gradient at another one: none at all, unless they see it.

        Or another gradient at itself than alone. A ReLU that is dead for both images lets no gradient through, but a
        DeconvNet's does: a norm by the statistics of the batch mixes them whatever the gradient.
        """
        with trial(images.device, gradients=True):
            leaf, last = images.clone().requires_grad_(), images[-1:].clone().requires_grad_()
            try:
                scores, alone = self._rows(leaf), self._rows(last)
                if any(map(norms_by_batch, graph_nodes(scores))):
                    return True
                (gradient,) = _gradients(scores[-1:].square().sum(), [leaf])
                (single,) = _gradients(alone.square().sum(), [last])
            except (RuntimeError, PhospheneError):  # what the pass itself will refuse
                return False
        if gradient is None or single is None:
            return (gradient is None) != (single is None)
        *others, own = gradient.abs().flatten(1).amax(1)
        return max(map(float, others)) > _NO_GRADIENT * float(own) or not near(gradient[-1:], single, KINKS)

    def _noise(self, image: torch.Size, count: int = 2) -> Tensor:
        """(count, C, H, W) unequal images of random numbers, laid out as the network wants them."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(count, *image, generator=generator, device="cpu", dtype=torch.float32)
        images = images * torch.linspace(0.5, 1.0, count, device="cpu", dtype=torch.float32).view(-1, 1, 1, 1)
        return _laid_out(images.to(self.classifier.device), self.first_look)


@contextmanager
def trial(device: torch.device, *, gradients: bool = False) -> Iterator[None]:
    """Whatever context the caller is in: the network runs as it was written, in whole float32."""
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        torch.autocast(device.type, enabled=False),
        whole_float32("exact"),
        uncompiled(),
        own_random_state(),
        nullcontext() if gradients else ValueHooks(),
    ):
        yield


def _is_flat(gradient: Tensor) -> bool:
    """Whether a gradient (1, k, h, w) is the same at every place where there is any."""
    places = gradient[0].flatten(1)
    alive = places[:, places.any(dim=0)]
    return alive.shape[1] < 2 or bool((alive - alive[:, :1]).abs().amax() <= _FLAT * alive.abs().amax())


def _is_rounded(found: Tensor, expected: Tensor) -> bool:
    alike, one, other = finite_pairs(found, expected)
    return bool(alike & ((one - other).abs().amax() <= _SAME * other.abs().amax().clamp(min=1e-6)))


def near(found: Tensor, expected: Tensor, room: float) -> bool:
    """Whether values differ from those expected by no more than a part of these, in the root mean square."""
    alike, one, other = finite_pairs(found, expected)
    difference = (one - other).float().square().mean().sqrt()
    return bool(alike & (difference <= room * other.float().square().mean().sqrt().clamp(min=1e-12)))


def finite_pairs(found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(whether NaN and infinity are where they are expected, found and expected with 0 in their place).

    Classes that are ruled out have minus infinity, and whoever compares with it compares nothing. On the device: nobody
    waits for it here.

    Example:
        >>> finite_pairs(torch.tensor([1.0, -torch.inf]), torch.tensor([2.0, -torch.inf]))
        (tensor(True), tensor([1., 0.]), tensor([2., 0.]))
        >>> finite_pairs(torch.tensor([1.0, 0.0]), torch.tensor([2.0, torch.nan]))[0]
        tensor(False)
    """
    finite = expected.isfinite()
    alike = (finite | (found == expected) | (found.isnan() & expected.isnan())).all()
    return alike, found.masked_fill(~finite, 0), expected.masked_fill(~finite, 0)


def _gradients(value: Tensor, at: list[Tensor], *, again: bool = False) -> tuple[Tensor | None, ...]:
    """The gradient at each tensor; none of a network whose way back fails, which the pass itself will say better.

    Args:
        value: that is differentiated.
        at: the tensors.
        again: keep the graph for another way back.
    """
    try:
        with right_norms(value):
            return torch.autograd.grad(value, at, allow_unused=True, retain_graph=again)
    except Exception:  # code of the network's own runs on the way back
        return (None,) * len(at)


def _laid_out(images: Tensor, look: FirstLook | None) -> Tensor:
    last_alone = look is not None and look.last_alone
    return images.contiguous(memory_format=torch.channels_last) if last_alone else images


def _read_as(layout: Layout | None, layer: Layer) -> Layer:
    """A layer as its layout has it, where the user says one."""
    if layout is None:
        return layer
    if is_tokens_first(layout) and not is_tokens_first(layer.layout):  # it was taken for so many rows of one token
        layer = replace(layer, shape=(layer.rows, *layer.shape[1:]), rows=1)
    return replace(layer, layout=layout)


def _leaf(_name: str, output: Tensor) -> Tensor:
    """The output, a leaf where what it was made of has no gradient."""
    return output if output.requires_grad or not output.is_floating_point() else output.detach().requires_grad_()


def _places_with(gradient: Tensor, layer: str, images: Tensor, layout: Layout | None) -> int:
    """At how many places a gradient is not zero; 1 where a class token alone has any."""
    if not bool(gradient.any()):
        return 0
    try:
        places = spatial_map(gradient, layer, images, layout)
    except ModelError:  # which axes are places has to be told: if the layer is the one, the pass itself asks
        return 2
    return max(1, int(places.any(dim=1).sum()))


def _let_go(graphs: list[fx.GraphModule], variants: dict[Arithmetic, tuple[nn.Module, fx.GraphModule | None]]) -> None:
    """Break the circles that hold the weights, which Python would find much later."""
    for graph in graphs:
        graph._modules.clear()
    for module, _ in variants.values():
        restore(module)


def _tensors(module: nn.Module) -> dict[int, Tensor]:
    return {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}


def _attribute(module: nn.Module, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value
