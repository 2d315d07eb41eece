"""The prepared form of a classifier: frozen, in eval mode, laid out for speed.

The user's module is never touched: what runs is a private copy. What changed in the original is noticed at the next
call, and the copy made anew.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from phosphene.classifier import Classifier, HeadKind
from phosphene.devices import in_fake_mode, own_random_state
from phosphene.errors import ModelError, OptionError, PhospheneError
from phosphene.graph import LayerName, LinearHead, check_inside, layer_name, with_values
from phosphene.hooks import Edit, ValueHooks, capture
from phosphene.runtime.first_look import FirstLook
from phosphene.runtime.layer_looks import LayerLooks
from phosphene.runtime.micro_batches import in_batches, usual_size
from phosphene.runtime.network import KINKS, Network
from phosphene.runtime.placement import Placement
from phosphene.runtime.pooled_head import pooled_head
from phosphene.runtime.precision import Precision as Precision
from phosphene.runtime.precision import Purpose, arithmetic, compute_dtype, uncompiled, whole_float32
from phosphene.runtime.trials import ROUNDED, near, plain_mode, within
from phosphene.types import Layer, Layout, Size

Result = TypeVar("Result")

# Pixels of the pictures that most networks are made for.
_USUAL = (224, 224)


class Prepared(Classifier):
    """A classifier ready to run: `prepare` makes it, and every method accepts it where it accepts a Classifier.

    Args:
        source: the classifier it is made from.
        network: the frozen network, which other variants share.
        precision: "exact" float32, "fast" bfloat16 where that is faster.
        purpose: what its passes are for.
    """

    def __init__(
        self, source: Classifier, network: Network, precision: Precision = "exact", purpose: Purpose = "maps"
    ) -> None:
        # A twin around the original's module: the original itself, were it held here, would hold its own cache.
        self.source = source.with_module(source.module)
        self.source._refreshed = source._refreshed
        self.network, self.precision, self.purpose = network, precision, purpose
        super().__init__(
            network.module,
            source.preprocess,
            source.labels,
            source.head,
            name=source.name,
            output=source.output,
            inputs=source.inputs,
            layouts=source.layouts,
        )
        self._images: Tensor | None = None  # whose passes are kept
        self._size: Size | None = None  # of the images that came last, where the network has no size of its own
        self._passes: dict[Hashable, Any] = {}
        self._is_settled = False

    @property
    def module(self) -> nn.Module:
        """The network as it runs, made when it is first asked for: by then the size of its images is known."""
        return self._form[0]

    @module.setter
    def module(self, _frozen: nn.Module) -> None:
        """(The constructor's; what runs is made of the frozen network.)"""

    @property
    def traced(self) -> fx.GraphModule | None:
        """The FX graph of what runs, or None where the network's code depends on data."""
        return self._form[1]

    @property
    def _form(self) -> tuple[nn.Module, fx.GraphModule | None]:
        return self.network.variant(arithmetic(self.precision, self.purpose, self.device))

    @property
    def _kept(self) -> nn.Module:
        return self.network.module

    def variant(self, purpose: Purpose, precision: Precision | None = None) -> Prepared:
        """The same classifier, made for other passes; None keeps the precision."""
        key = precision or self.precision, purpose
        if key == (self.precision, self.purpose):
            return self
        found = copy.copy(self)
        found.precision, found.purpose = key
        found._images, found._passes = None, {}
        return found

    def for_images(self, images: Tensor) -> Prepared:
        """The same for images of this size: of a network that takes any, others may be looked at meanwhile."""
        if self.preprocess.size is not None or images.ndim != 4:
            return self
        found = self.settled()
        found._tell_size(images)
        return found

    def given(self, **values: Any) -> Prepared:
        """The same, settled, with other values of the inputs that are not explained."""
        found = Prepared(self.source.given(**values), self.network, self.precision, self.purpose)
        self.network.told(found.inputs)
        found._is_settled, found._size = True, self._size
        return found

    def remembering(self, images: Tensor) -> Prepared:
        """The same, settled, which runs passes over these images once for all who ask it for them.

        It is this very tensor that is known again, no copy or slice; nobody may change it meanwhile.
        """
        found = self.settled()
        found._images, found._passes = images, {}
        found._tell_size(images)
        return found

    def settled(self) -> Prepared:
        """The same, not asked again whether it is up to date: to be handed along within one call."""
        found = copy.copy(self)
        found._is_settled = True
        return found

    def check_images(self, images: Tensor) -> None:
        super().check_images(images)
        self._tell_size(images)
        # Before any pass, since it may say by which head scores are read.
        self.network.look((int(images.shape[-2]), int(images.shape[-1])))

    def _tell_size(self, images: Tensor) -> None:
        if self.preprocess.size is None and images.ndim == 4:
            self._size = int(images.shape[-2]), int(images.shape[-1])

    @property
    def looks(self) -> LayerLooks:
        """What is known of the layers for images of about this size; where none came, of that of the first images."""
        return self.network.looks(self._size)

    @property
    def head(self) -> HeadKind:
        """How scores are read: as it was told, unless the first look showed otherwise."""
        return self.first_look.head

    @head.setter
    def head(self, told: HeadKind) -> None:
        self._told = told

    @property
    def first_look(self) -> FirstLook:
        """What one image of noise showed of the network, when the first images came."""
        return self.network.first_look or FirstLook(head=self._told)

    def layout(self, layer: str, *, fed: bool = False) -> Layout | None:
        """Which axis of a layer's output, or of what it is `fed`, holds the channels; None where nothing says.

        Example:
            >>> prepare(Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))).layout("1")
            'NCHW'
        """
        return self.looks.layout(layer, fed=fed)

    def capture(
        self, layers: Sequence[str], edit: Edit | None = None, *, of: nn.Module | None = None
    ) -> AbstractContextManager[dict[str, Tensor]]:
        """The outputs of layers of `module`, or of another form of it, each with its images first (`hooks.capture`)."""
        return capture(self.module if of is None else of, layers, edit, tokens_first=self.looks.tokens_first(layers))

    def once(self, images: Tensor, key: Hashable, run: Callable[[], Result]) -> Result:
        """What `run` gives; kept, if passes over these images are remembered."""
        if not self.remembers(images):
            return run()
        if key not in self._passes:
            self._passes[key] = run()
        result: Result = self._passes[key]
        return result

    def remembers(self, images: Tensor) -> bool:
        """Whether passes over these images are run once."""
        return images is self._images and not self.network.moves

    @property
    def layers(self) -> list[Layer]:
        """Every layer that runs, in the order of completion, with the shape of its output."""
        return self.looks.layers

    @property
    def default_layer(self) -> str:
        """The layer that CAM methods look at unless told otherwise."""
        return self.looks.default_layer

    def placement(self, layer: str, images: Tensor) -> Placement:
        """Where in images (N, C, H, W) the places of a layer lie: in the part that the network cuts out, if it does.

        Raises:
            ModelError: if the layer sees the picture mirrored, turned, in another order, as frequencies or mixtures
                of all places, or cut out or turned where the picture itself says.

        Example:
            >>> from phosphene.classifier import Preprocess
            >>> class Cut(nn.Conv2d):
            ...     def forward(self, images):
            ...         return super().forward(images[:, :, 8:-8, 8:-8])
            >>> net = nn.Sequential(Cut(3, 4, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            >>> prepare(Classifier(net, Preprocess((64, 64)))).placement("0", torch.rand(1, 3, 64, 64)).seen
            ((0.125, 0.875), (0.125, 0.875))
        """
        if self.inputs.of_item is not None:  # (there are no inputs yet to look with)
            return Placement()
        moved = self.looks.how_steered(layer, images) or self.looks.how_lies(layer)
        if moved is not None:
            calls = next((one.calls for one in self.layers if one.name == layer), 1)
            how = f"{moved} in the last of its {calls} runs" if calls > 1 else moved
            raise ModelError(
                f"layer '{layer}' of {self.name} sees the picture {how}, so that its map cannot be laid on it: "
                "name a layer before that, give the network pictures that are so already, or use a method that looks "
                "at input and output alone (saliency, occlusion, rise)"
            )
        return Placement(self.looks.part_seen(layer, (int(images.shape[-2]), int(images.shape[-1]))))

    @property
    def linear_head(self) -> tuple[fx.GraphModule | None, LinearHead]:
        """The linear head, and the network as a graph that also returns the features it averages.

        There is no graph where a layer of the network gives these features, and the numbers alone say so.

        Raises:
            ModelError: if the network ends in something else.
        """
        known, traced = self.network.heads, id(self.traced)
        if traced not in known:
            known[traced] = self._find_linear_head()
        return known[traced]

    def _find_linear_head(self) -> tuple[fx.GraphModule | None, LinearHead]:
        check_inside(self.network.module, self.name)
        head = pooled_head(self.looks)
        if head is None and self.preprocess.size is None:  # (of a small picture one place may be all there is)
            with suppress(PhospheneError):
                head = pooled_head(self.network.looks(_USUAL))
        if head is None:
            what = "no layer's mean" if self.traced is None else "no mean over all places of the picture"
            raise ModelError(
                f"no class activation map: {what} gives the scores of {self.name} linearly; use grad_cam, which needs "
                "no such head"
            )
        if self.traced is None or not head.node:
            return None, head
        node = next(node for node in self.traced.graph.nodes if node.name == head.node)
        return self.network.kept(with_values(self.traced, [node])), head

    def layer_name(self, layer: LayerName | None) -> str:
        """The dotted name of a layer given by name, as a module of the original network, or None for the default.

        Raises:
            NotFoundError: if there is none.
            ModelError: if it looks at other inputs of the network than the picture.
        """
        name = self.default_layer if layer is None else layer_name(self.source.module, layer)
        if self.inputs.of_item is None and not self.looks.sees_picture(name):
            raise ModelError(
                f"the last output of layer '{name}' of {self.name} is of inputs that are fixed, not of the picture "
                "that is explained, or dead: it is the same for every picture; name one that the picture goes through"
            )
        return name

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        yield  # (the copy always is in eval mode)

    def run(self, module: nn.Module, images: Tensor) -> Any:
        with self._types(), self._drawing(), self.network.running():
            return super().run(module, images)

    def _drawing(self) -> AbstractContextManager[None]:
        """The user's random state stays as it is, also where the network moves it."""
        return own_random_state() if self.first_look.draws or self.first_look.seeds else nullcontext()

    @contextmanager
    def _types(self) -> Iterator[None]:
        enabled = compute_dtype(self.precision, self.device) != torch.float32
        with (
            whole_float32(self.precision),
            uncompiled(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled),
            ValueHooks() if self.first_look.hooks else nullcontext(),
        ):
            yield

    @contextmanager
    def passing(self, *, gradients: bool) -> Iterator[None]:
        """Whatever context the caller is in: no inference mode, gradients as said, the types of its precision."""
        with plain_mode(self.device, gradients=gradients), self._types(), self._drawing():
            yield

    def ready(self, images: Tensor) -> Tensor:
        """Images on the network's device as a plain float tensor of their own, in the fastest memory format."""
        given = images.detach().to(self.device, torch.float32)
        if self.network.contiguous:
            return given.clone(memory_format=torch.contiguous_format)
        ready = torch.empty_like(given, memory_format=torch.channels_last)
        # In the order of what is written: the other way round it takes half as long again.
        ready.permute(0, 2, 3, 1).copy_(given.permute(0, 2, 3, 1))
        return ready

    def in_batches(
        self,
        run: Callable[[int, int], Result],
        count: int,
        batch_size: int | None,
        image: torch.Size,
        rows: Callable[[Result], Any] | None = lambda result: result,
        done: Callable[[int], None] | None = None,
    ) -> list[Result]:
        """What `run(start, stop)` gives for each micro-batch (micro_batches.in_batches).

        One image at a time where images of a batch are not independent of each other, of two or of as many as run
        here; and once more in plain layout where the network takes a view of what only several images lay out in
        another way.

        Args:
            run: does a part; it may be run again.
            count: of images, or of copies of one.
            batch_size: to begin with; None chooses by the device.
            image: shape of one.
            rows: what of a result has a row for each image, the scores first; None if nothing has.
            done: called with the number of those that are done.
        """
        if min(count, usual_size(batch_size, self.device)) > 1 and not self.network.images_are_independent(image):
            batch_size = 1

        def compared(start: int, stop: int) -> Result:
            found, size = run(start, stop), stop - start
            if rows is not None and not self._is_as_alone(rows, found, lambda: run(stop - 1, stop), size, image):
                raise _MixedError
            return told(found, stop)

        def told(found: Result, stop: int) -> Result:
            if done is not None:
                done(stop)
            return found

        try:
            return in_batches(compared, count, batch_size, self.device, image)
        except _MixedError:
            batch_size = 1
        except ModelError as error:
            if self.network.contiguous or "view size is not compatible" not in str(error):
                raise
            self.network.lay_out_plainly()
        return in_batches(lambda start, stop: told(run(start, stop), stop), count, batch_size, self.device, image)

    def _is_as_alone(
        self, rows: Callable[[Result], Any], found: Result, alone: Callable[[], Result], size: int, image: torch.Size
    ) -> bool:
        """Whether a batch gives its last image what that gives alone; looked at with the first batch of each size.

        A network may ask how many images there are. Where more differs than rounding does it is tried out on noise:
        of scores that are nearly zero rounding is a large part.
        """
        if size == 1:
            return True
        batch, known = [values.detach() for values in tree_leaves(rows(found))], self.network.compared
        # (a layer that runs for each image by itself gives its last output)
        if any(values.ndim == 0 or len(values) % size for values in batch):
            self.network.independent[image, size] = False
            return False
        if size == 2 or self.first_look.draws:
            return True
        # Gradients too: to spare memory a network may cut them off from large batches.
        key = (image, size, torch.is_grad_enabled(), len(batch))
        if key in known:
            return True
        known.add(key)
        pairs = list(zip(batch, tree_leaves(rows(alone())), strict=True))
        alike = all(many[-1:].shape == one.shape and near(many[-1:], one, KINKS) for many, one in pairs)
        if alike and within(pairs[0][0][-1:], pairs[0][1], ROUNDED[self.precision]):
            return True
        return self.network.images_are_independent(image, size)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how it was run."""
        seen = self.first_look.notes
        if all(self.network.independent.values()):
            return seen
        why = "this network takes no batch, or its scores of an image change with the rest of it"
        if self.first_look.reads:
            why = "the code of this network goes on by values that it reads, which of a batch are those of all images"
        return (*seen, f"images ran one by one: {why}")

    def notes_on(self, layers: str | None) -> tuple[str, ...]:
        """The same, and of which output of a layer a map is that runs several times: a mirrored copy's lies mirrored.

        Args:
            layers: names of those that were looked at, joined by +; None for none.
        """
        names = layers.split("+") if layers else []
        seen = [found for found in self.layers if found.name in names] if names else []
        return (
            *self.notes,
            *(
                f"layer {one.name} runs {one.calls} times for each image: its last output is meant"
                for one in seen
                if one.calls > 1
            ),
            *(
                f"layer {one.name} sees the picture through a grid of the network's own (grid_sample, roi_align), and "
                "its map is laid on it as if that left all where it is"
                for one in seen
                if one.resampled
            ),
        )


class _MixedError(Exception):
    """Images of a batch turned out to depend on how many there are."""


_PREPARED: WeakKeyDictionary[Classifier, Prepared] = WeakKeyDictionary()
_LOCK = threading.RLock()


def prepare(classifier: Classifier, keep: Sequence[LayerName] = (), precision: Precision | None = None) -> Prepared:
    """The prepared form of a classifier, made at the first call and kept until the classifier changes.

    Noticed are weights that are exchanged, moved or written to, exchanged modules, their attributes and hooks, and the
    classifier's own fields; what no check can see (runtime.fingerprint) after `classifier.refresh()`.

    Args:
        classifier: any classifier; a prepared one is returned as it is unless it is out of date or another precision
            is asked for.
        keep: layers that will be captured; they must exist. What is captured is always what the original gives
            there: nothing is joined across a layer while it is being watched (kernels.chain).
        precision: "exact" (default) or "fast".

    Raises:
        OptionError: for an unknown precision.
        NotFoundError: for an unknown layer.
        ModelError: for a network that cannot be copied.

    Example:
        >>> classifier = Classifier(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()))
        >>> prepare(classifier) is prepare(classifier)
        True
    """
    if in_fake_mode():
        raise ModelError("nothing is computed inside of FakeTensorMode; explain the network outside of it")
    if not isinstance(classifier, Classifier):
        raise OptionError(
            f"{type(classifier).__name__} is no Classifier; make one: Classifier(module, Preprocess(...))"
        )
    prepared = classifier if isinstance(classifier, Prepared) else None
    if precision is None:
        precision = "exact" if prepared is None else prepared.precision
    if not isinstance(precision, str) or precision not in ("exact", "fast"):
        raise OptionError(f"precision {precision!r} is unknown; choose exact or fast")
    if isinstance(keep, str) or not isinstance(keep, Sequence | Set):
        raise OptionError(f"keep={keep!r} is no list of layers; give their names or the modules themselves")
    source = classifier if prepared is None else prepared.source
    for layer in keep:
        layer_name(source.module, layer)
    with _LOCK:
        if prepared is None or not (prepared._is_settled or prepared.network.fingerprint.matches(source)):
            prepared = _current(source)
        return prepared if precision == prepared.precision else prepared.variant("maps", precision)


def _current(source: Classifier) -> Prepared:
    found = _PREPARED.get(source)
    if source._base is not None:  # other inputs of a network that is prepared, or will be
        base = _current(source._base)
        if found is None or found.network is not base.network:
            found = _PREPARED[source] = Prepared(source, base.network)
            base.network.told(found.inputs)
        return found
    if found is not None and found.network.fingerprint.matches(source):
        return found
    _PREPARED.pop(source, None)
    del found  # (so that the weights of two copies are not held at once)
    found = _PREPARED[source] = Prepared(source, Network(source))
    return found


def forget(classifier: Classifier) -> None:
    """Let go of what was prepared of a classifier: for those who go through many of them."""
    _PREPARED.pop(classifier.source if isinstance(classifier, Prepared) else classifier, None)
