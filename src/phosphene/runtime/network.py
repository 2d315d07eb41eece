"""A private copy of a network that all of its variants are made of, and what was found out about it."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, fx, nn

from phosphene.autograd_graph import graph_nodes
from phosphene.axes import Follow, is_tokens_first
from phosphene.classifier import Classifier
from phosphene.devices import own_random_state, seed_all
from phosphene.errors import ModelError, PhospheneError, warn
from phosphene.fixed_inputs import FixedInputs
from phosphene.graph import FunctionModule, LinearHead, graph_module, is_changed, trace
from phosphene.hooks import is_scripted, survey
from phosphene.kernels import Arithmetic, accelerate, restore
from phosphene.runtime.fingerprint import Fingerprint
from phosphene.runtime.first_look import FirstLook, first_look, integer_layer, norms_by_batch
from phosphene.runtime.freeze import duplicate, freeze
from phosphene.runtime.layer_looks import LayerLooks
from phosphene.runtime.norms import right_norms
from phosphene.runtime.state import State
from phosphene.runtime.trials import gradients_of, near, trial, within
from phosphene.types import Layer, Layout, Size

# Of the largest score: by so much an image's scores may differ in a batch, as sums are made in another order there.
_SAME = 5e-5
# Of the largest gradient at the image itself: a smaller one at another is none.
_NO_GRADIENT = 1e-9
# As a part of the root mean square: how far another form of a network may be from it in float32, and in bfloat16, and
# how far its gradient beyond that, as values lie at the kinks of ReLUs.
_NEARLY, _ROUGHLY, KINKS = 1e-4, 0.3, 0.3
# Of how many sizes of images is kept what was seen of the layers; below how many pixels each size is looked at, and
# above how many none.
_SIZES_KEPT, _EXACT, _LARGEST = 256, 16, 448


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
        independent: whether images are, by shape of an image and size of a batch, as far as it was tried out.
        right_windows: whether windows of its maps give what whole maps give, by precision, size and boxes.
    """

    def __init__(self, source: Classifier) -> None:
        with own_random_state():  # (a layer may be made anew when the modes are set)
            self.module = freeze(source.module)
        self.classifier = source.with_module(self.module)
        self.first_look: FirstLook | None = None
        self.state = State(self.module)
        self.original, self.fingerprint = source.module, Fingerprint(source)
        self.moves = False
        self.compared: set[tuple[object, ...]] = set()
        self.independent: dict[tuple[torch.Size, int], bool] = {}
        self.right_windows: dict[tuple[object, ...], bool] = {}
        self._looks: dict[Size, LayerLooks] = {}
        self._sizes: dict[Size, Size] = {}  # by size of images that in which layers are looked at
        # By identity of the graph that they end.
        self.heads: dict[int, tuple[fx.GraphModule | None, LinearHead]] = {}
        self._surveys: dict[Size, list[Layer]] = {}
        self._size: Size | None = None  # of the first images
        self._answers: dict[torch.Size, tuple[Tensor, Tensor] | None] = {}  # by shape of an image
        self.lock = threading.RLock()
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
    def own_traced(self) -> fx.GraphModule | None:
        return self._traced(self.module)

    def _traced(self, module: nn.Module) -> fx.GraphModule | None:
        """The graph, run with the layers of `module`, a copy of the network."""
        if self._graph is None:
            return None
        graph, constants = self._graph
        root = {str(node.target): None for node in graph.nodes if node.op in ("call_module", "get_attr")}
        values = {name: constants[name] if name in constants else operator.attrgetter(name)(module) for name in root}
        return self.kept(graph_module(values, graph))

    def kept(self, traced: fx.GraphModule) -> fx.GraphModule:
        """A graph of this network, which lets go of the network's layers when this object goes."""
        self._graphs.append(traced)
        return traced

    def variant(self, arithmetic: Arithmetic) -> tuple[nn.Module, fx.GraphModule | None]:
        """(the network, its graph) that computes as asked for; the same one each time."""
        with self.lock:
            if self.as_written:
                return self.module, self.own_traced
            if arithmetic not in self._variants:
                if is_scripted(self.module) or self.classifier.device.type != "cpu":
                    return self.module, self.own_traced
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
        leaf = self.noise(self._image)[:1].clone(memory_format=torch.channels_last).requires_grad_()
        self._begin()
        with trial(leaf.device, gradients=True):
            seed_all(leaf.device)
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
        with self.lock if self.moves else nullcontext():
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

    def look(self, size: Size) -> None:
        """What one image of noise shows of the network; taken when the first images come, and what is worth it said.

        Args:
            size: of the images.
        """
        if self.first_look is not None:
            return
        with self.lock, self._leaving_alone():
            if self.first_look is None:
                self._size = size
                found = self._looked()
                if self.state.writes_weights():  # (so that each pass can begin with those that it was given)
                    self._take_again()
                    found = self._looked()
                if found is None or found.asks:  # (it may fail for want of weights that have a gradient)
                    self._thaw()
                    found = self._looked()
                    if found is None:
                        self.module.requires_grad_(False)
                self.moves = self._moves(found)
                self.first_look = found
                for note in () if found is None else found.notes:
                    warn(note)
                if self.as_written:
                    self._restore()

    @contextmanager
    def _leaving_alone(self) -> Iterator[None]:
        """A first pass of the copy, after which the original has to be as it was."""
        before = State(self.original)
        try:
            yield
        finally:
            if changed := before.is_changed():
                # (What an object counts that a copy shares, such as a logger, is put back and says nothing of layers.)
                changed = not before.is_of_objects()
                before.restore()
        if changed:
            self.first_look = None
            raise ModelError(
                f"a pass of a copy of {self.classifier.name} changes the network itself: its code reaches its own "
                "layers past their attributes (through a list of their class, say); let it go through self.modules()"
            )
        self.fingerprint.settle()

    def lay_out_plainly(self) -> None:
        """Give images in contiguous NCHW from now on, without the kernels that change the layout of their outputs."""
        with self.lock:
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
        image, settled = _laid_out(self.noise(self._image)[1:], look), State(self.module)
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
        self._begin()  # (here and not in the first pass, where each operation is watched: a tenth of a first call)
        passes = iter([self._rows_now])
        try:
            found = first_look(
                lambda images: next(passes, self.rows)(images),
                self.noise(self._image)[:1],
                classifier.name,
                classifier.head,
            )
        except (RuntimeError, MemoryError):
            return None
        if found is not None:
            if found.draws:
                self._refuse_made_layers()
            # (A function of pictures hands them to NumPy; whether a batch mixes its images is tried out.)
            reads = found.reads and not isinstance(self.module, FunctionModule)
            found = replace(found, reads=reads, integers=integer_layer(self.module))
        return found

    def _refuse_made_layers(self) -> None:
        """Refuse a network whose pass makes layers that the original has not yet: by chance, and anew in each copy."""
        known = dict(self.original.named_parameters())
        made = next((name for name, _ in self.module.named_parameters() if name not in known), None)
        if made is not None:
            raise ModelError(
                f"{self.classifier.name} makes '{made}' in its first pass, which never ran; run it once on a batch of "
                "its own size first"
            )

    def _thaw(self) -> None:
        """Let weights say that they have a gradient, or have none, as the original's do; none is ever asked for."""
        for parameter, given in self._parameters_and_originals():
            if parameter.is_floating_point():
                parameter.requires_grad_(given.requires_grad)

    def _take_again(self) -> None:
        """Parameters as the original has them, and all of them kept."""
        self.state.restore()
        with torch.inference_mode(False), torch.no_grad():
            for parameter, given in self._parameters_and_originals():
                if given.shape == parameter.shape:
                    parameter.data.copy_(given.detach())
        self.state = State(self.module, whole=True)

    def _parameters_and_originals(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        given = dict(self.original.named_parameters(remove_duplicate=False))
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            if name in given:
                yield parameter, given[name]

    def rows(self, images: Tensor) -> Tensor:
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

    def looks(self, size: Size | None) -> LayerLooks:
        """What is known of the layers for images of a size; of a network with a size of its own always for that.

        A network of any size is looked at in one of few sizes near, which hangs on nothing but the size itself, and
        only where it does not run there in the very size.

        Args:
            size: (height, width); None for the first images'.
        """
        own = self.classifier.preprocess.size
        size = own or size or self.size
        with self.lock:
            if size not in self._sizes:
                _make_room(self._sizes)
                self._sizes[size] = size if own else self._size_near(size)
            near = self._sizes[size]
            if near not in self._looks:
                _make_room(self._looks)
                self._looks[near] = LayerLooks(self, near)
            return self._looks[near]

    def _size_near(self, size: Size) -> Size:
        near = (_near(size[0]), _near(size[1]))
        if near == size:
            return size
        try:
            self.survey(near)
        except (RuntimeError, PhospheneError):  # (a network may take multiples of its patches alone)
            return size
        return near

    def survey(self, size: Size) -> list[Layer]:
        """The layers as they run on images of a size, each surveyed once."""
        with self.lock:
            if size not in self._surveys:
                _make_room(self._surveys)
                self._surveys[size] = self.survey_of(self.classifier.mean_image.expand(1, -1, *size).contiguous())
            return self._surveys[size]

    def survey_of(self, images: Tensor) -> list[Layer]:
        """The layers as they run on an image (1, C, H, W) in [0, 1]."""
        classifier, images = self.classifier, _laid_out(images, self.first_look)
        with self.lock, self._leaving_alone(), classifier.clear_refusal(images), trial(images.device):
            self._begin()
            inputs = classifier.preprocess.normalize(images).to(classifier.dtype)
            found = survey(self.module, inputs, classifier.called)
        return [_read_as(classifier.layouts.get(layer.name), layer) for layer in found]

    @cached_property
    def first_names(self) -> dict[str, str]:
        """The first name, by which layers are known, of each module by its others."""
        first = {id(child): name for name, child in self.module.named_modules()}
        every = self.module.named_modules(remove_duplicate=False)
        return {name: first[id(child)] for name, child in every if first[id(child)] != name}

    def images_are_independent(self, image: torch.Size, count: int = 2) -> bool:
        """Whether the scores of an image of this shape are the same whatever else is in its batch; tried out once.

        They are not if the network takes no more than one image.

        Args:
            image: shape of one.
            count: of a batch that is tried out: with a batch of another size a network may do otherwise.
        """
        with self.lock:
            for size in (2, max(2, count)):
                if (image, size) not in self.independent:
                    self.independent[image, size] = self._are_independent(image, size)
            return all(alike for (shape, _), alike in self.independent.items() if shape == image)

    def _are_independent(self, image: torch.Size, count: int) -> bool:
        if self.first_look is not None and self.first_look.reads:  # (it would have to be tried with every value)
            return False
        images = self.noise(image, count)
        alike = self._are_alike(images)
        if not alike or not isinstance(self.module, FunctionModule):
            return alike is None or (alike and not self._are_mixed(images))
        # Whether a function asks something of the whole batch (is it dark?) is not seen of noise alone.
        images[0], images[-1] = 0.0, 1.0
        return self._are_alike(images) is not False

    def _are_alike(self, images: Tensor) -> bool | None:
        """Whether the first and the last image have the same scores alone and together; None if nothing can be told."""
        with trial(images.device):
            try:
                alone = [self.rows(end) for end in (images[:1], images[-1:], images[:1])]
                try:
                    with Follow() as follow:
                        given = self.classifier.run(self.module, follow.name(images, "NCPP"))
                except ModelError:  # it takes one image and no batch
                    return False
                together = self.classifier.rows(given, len(images))[[0, -1]]
            except (RuntimeError, PhospheneError):  # whatever it is, the pass itself will say so better
                return None
        if not torch.equal(alone[0], alone[2]):  # (a network that draws random numbers: nothing can be told)
            return None
        single = torch.cat(alone[:2])
        return together.shape == single.shape and within(together, single, _SAME) and not follow.joins

    def _are_mixed(self, images: Tensor) -> bool:
        """Whether the scores of an image have a gradient at another one: none at all, unless they see it.

        Or another gradient at itself than alone. A ReLU that is dead for both images lets no gradient through, but a
        DeconvNet's does: a norm by the statistics of the batch mixes them whatever the gradient.
        """
        with trial(images.device, gradients=True):
            leaf, last = images.clone().requires_grad_(), images[-1:].clone().requires_grad_()
            try:
                scores, alone = self.rows(leaf), self.rows(last)
                if any(map(norms_by_batch, graph_nodes(scores))):
                    return True
                (gradient,) = gradients_of(scores[-1:].square().sum(), [leaf])
                (single,) = gradients_of(alone.square().sum(), [last])
            except (RuntimeError, PhospheneError):  # what the pass itself will refuse
                return False
        if gradient is None or single is None:
            return (gradient is None) != (single is None)
        *others, own = gradient.abs().flatten(1).amax(1)
        return max(map(float, others)) > _NO_GRADIENT * float(own) or not near(gradient[-1:], single, KINKS)

    def noise(self, image: torch.Size, count: int = 2) -> Tensor:
        """(count, C, H, W) unequal images of random numbers, laid out as the network wants them."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(count, *image, generator=generator, device="cpu", dtype=torch.float32)
        images = images * torch.linspace(0.5, 1.0, count, device="cpu", dtype=torch.float32).view(-1, 1, 1, 1)
        return _laid_out(images.to(self.classifier.device), self.first_look)


def _laid_out(images: Tensor, look: FirstLook | None) -> Tensor:
    """Images in the memory format that a network was seen to take."""
    last_alone = look is not None and look.last_alone
    return images.contiguous(memory_format=torch.channels_last) if last_alone else images


def _read_as(layout: Layout | None, layer: Layer) -> Layer:
    """A layer as its layout has it, where the user says one."""
    if layout is None:
        return layer
    if is_tokens_first(layout) and not is_tokens_first(layer.layout):  # it was taken for so many rows of one token
        layer = replace(layer, shape=(layer.rows, *layer.shape[1:]), rows=1)
    return replace(layer, layout=layout)


def _near(side: int) -> int:
    """One of few lengths near a side, none above 448: of four steps for each doubling the one below, and at least 4.

    Example:
        >>> [_near(side) for side in (9, 33, 71, 100, 224, 250, 4000)]
        [9, 32, 64, 96, 224, 224, 448]
    """
    step = max(4, 1 << max(0, side.bit_length() - 3))
    return side if side < _EXACT else min(side // step * step, _LARGEST)


def _make_room(known: dict[Size, Any]) -> None:
    """Let go of the oldest: pictures may have a thousand sizes."""
    while len(known) >= _SIZES_KEPT:
        known.pop(next(iter(known)))


def _let_go(graphs: list[fx.GraphModule], variants: dict[Arithmetic, tuple[nn.Module, fx.GraphModule | None]]) -> None:
    """Break the circles that hold the weights, which Python would find much later."""
    for graph in graphs:
        graph._modules.clear()
    for module, _ in variants.values():
        restore(module)


def _tensors(module: nn.Module) -> dict[int, Tensor]:
    return {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
