"""One prepared form of a classifier, made once and kept: frozen, in eval mode, laid out for speed.

The user's module is never touched: what runs is a copy of its structure that shares the weights, without
gradients of its own. A changed weight is noticed and the copy made anew.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Sequence, Set
from dataclasses import replace
from functools import cached_property, partial
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from phosphene.classifier import Classifier, find_scores, unwrapped
from phosphene.errors import ModelError, OptionError
from phosphene.graph import (
    LayerName,
    LinearHead,
    default_layer,
    layer_name,
    linear_head,
    outputs,
    spatial_map,
    trace,
    with_value,
)
from phosphene.hooks import capture, is_scripted, survey
from phosphene.runtime.allocator import keep_freed_memory
from phosphene.runtime.first_look import FirstLook, first_look, integer_layer
from phosphene.runtime.fusion import fuse, run_ahead
from phosphene.runtime.precision import Precision as Precision
from phosphene.types import Layer, Layout, Size

Signature = tuple[object, ...]


class Prepared(Classifier):
    """A classifier ready to run: `prepare` makes it, and every method accepts it where it accepts a Classifier.

    Args:
        source: the classifier it is made from.
        precision: "exact" float32, "fast" bfloat16 where that is faster.
    """

    def __init__(self, source: Classifier, precision: Precision) -> None:
        super().__init__(
            freeze(source.module),
            source.preprocess,
            source.labels,
            source.head,
            name=source.name,
            output=source.output,
            layouts=source.layouts,
        )
        # A twin around the original's module: the original itself, were it held here, would hold its own cache.
        self.source = source.with_module(source.module)
        self.precision: Precision = precision
        self._look: FirstLook | None = None
        self._seen: Size | None = None  # of the first images, where no size was told
        self.traced: fx.GraphModule | None = trace(self.module)
        """The FX graph, or None where the network's code depends on data."""
        fuse(self.module, self.traced)

    def check_images(self, images: Tensor) -> None:
        super().check_images(images)
        if self._seen is None:
            self._seen = (int(images.shape[-2]), int(images.shape[-1]))
        self.first_look  # noqa: B018  (before any pass, since it may say by which head scores are read)

    @property
    def first_look(self) -> FirstLook:
        """What one image of noise shows of the network; taken at the first pass, when what is worth it is said."""
        return self._look or self._looked() or FirstLook(head=self.head)

    def _looked(self) -> FirstLook | None:
        """A first look that is kept; None where memory or the network does not allow it, which the pass will say."""
        original = freeze(self.source.module)
        runs = partial(self._rows, self.module), partial(self._rows, original)
        try:
            look = first_look(*runs, self._noise(), self.name, self.head)
        except (RuntimeError, MemoryError):
            return None
        if look is None:
            self._seen = None
            return None
        if look.memory_format is torch.contiguous_format:  # what makes it fast lays values out anew
            self.module, self.traced = original, trace(original)
        look = replace(look, integers=integer_layer(original))
        self.head, self._look = look.head, look
        look.say()
        return look

    def _rows(self, module: nn.Module, images: Tensor) -> Tensor:
        with run_ahead():
            return self.rows(self.run(module, images), len(images))

    def _noise(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, self.preprocess.channels, *self._size, generator=generator).to(self.device)

    @cached_property
    def layers(self) -> list[Layer]:
        """Every layer that runs, in the order of completion, with the shape and the layout of its output."""
        images = self.mean_image.expand(1, -1, *self._size).contiguous()
        with self.clear_refusal(images), torch.inference_mode(False), torch.autocast(self.device.type, enabled=False):
            found = survey(self.module, self.preprocess.normalize(images).to(self.dtype))
        return [replace(layer, layout=self.layouts.get(layer.name, layer.layout)) for layer in found]

    def layout(self, layer: str, *, fed: bool = False) -> Layout | None:
        """Which axis of a layer's output, or of what it is `fed`, holds the channels; None where nothing says.

        Example:
            >>> prepare(Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))).layout("1")
            'NCHW'
        """
        if layer in self.layouts and not fed:
            return self.layouts[layer]
        found = next((found for found in self.layers if found.name == layer), None)
        return None if found is None else found.fed if fed else found.layout

    def logits(self, images: Tensor, copies: int = 1) -> Tensor:
        with run_ahead():
            return super().logits(images, copies)

    @property
    def _size(self) -> Size:
        return self.preprocess.size or self._seen or (224, 224)

    @cached_property
    def linear_head(self) -> tuple[fx.GraphModule, LinearHead]:
        """The linear head, and the network as a graph that also returns the features it averages.

        Raises:
            ModelError: if the network cannot be traced or ends in something else.
        """
        if self.traced is None:
            why = (
                "was exported, and of an exported network the head is not read"
                if self._is_exported
                else "has code that depends on data and cannot be read"
            )
            raise ModelError(f"no class activation map: {self.name} {why}; use grad_cam, which needs no head")
        head = linear_head(self.traced, find_scores(outputs(self.traced), self.output, fx.Node))
        return with_value(self.traced, head.node), head

    @property
    def _is_exported(self) -> bool:
        from torch.export.unflatten import UnflattenedModule  # (slow to import, and seldom asked)

        return any(isinstance(child, UnflattenedModule) for child in self.module.modules())

    @cached_property
    def default_layer(self) -> str:
        """The layer that CAM methods look at unless told otherwise."""
        if is_scripted(self.module):
            raise ModelError(
                f"{self.name} is TorchScript, which runs as one piece without layers; use a method that looks at input "
                "and output alone (saliency, occlusion, rise), or the network as torch.export.save writes it"
            )
        return default_layer(self.layers, self._size, self._positions_reached, network=self.name)

    def _positions_reached(self, layer: str) -> int | None:
        """At how many positions of a layer the scores of noise see a change; None if it lies off the way to them."""
        generator, images = torch.Generator().manual_seed(0), self._noise()
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            with capture(self.module, [layer], edit=_leaf) as found:
                logits = self.logits(images)
            if not logits.requires_grad:
                return None
            # Unequal weights: the sum of probabilities is 1 whatever the image.
            weights = torch.randn(logits.shape, generator=generator).to(logits)
            (gradient,) = torch.autograd.grad((logits * weights).sum(), found[layer], allow_unused=True)
        if gradient is None:
            return None
        if not bool(gradient.any()):
            return 0
        reached = spatial_map(gradient, layer, images, self.layout(layer)).abs().sum(dim=1) > 0  # (1, h, w)
        return max(1, int(reached.sum()))  # a class token alone is reached, too

    def layer_name(self, layer: LayerName | None) -> str:
        """The dotted name of a layer given by name, as a module of the original network, or None for the default."""
        return self.default_layer if layer is None else layer_name(self.source.module, layer)


_PREPARED: WeakKeyDictionary[Classifier, dict[Precision, tuple[Signature, Prepared]]] = WeakKeyDictionary()
_DROPPED: list[int] = []  # bytes of weights of each prepared form that nobody holds any more
_COLLECT_ABOVE = 128 << 20


def prepare(classifier: Classifier, keep: Sequence[LayerName] = (), precision: Precision | None = None) -> Prepared:
    """The prepared form of a classifier, made at the first call and kept until a weight changes.

    Args:
        classifier: any classifier; a prepared one is returned as it is unless another precision is asked for.
        keep: layers that will be captured; they must exist. What is captured is always what the original gives
            there: nothing is folded across a layer while it is being watched (runtime.fusion).
        precision: "exact" (default) or "fast".

    Raises:
        OptionError: for an unknown precision.
        NotFoundError: for an unknown layer.

    Example:
        >>> classifier = Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
        >>> prepare(classifier) is prepare(classifier)
        True
    """
    if not isinstance(classifier, Classifier):
        raise OptionError(
            f"{type(classifier).__name__} is no Classifier; make one: Classifier(module, Preprocess(...))"
        )
    source = classifier.source if isinstance(classifier, Prepared) else classifier
    if precision is None:
        precision = classifier.precision if isinstance(classifier, Prepared) else "exact"
    if not isinstance(precision, str) or precision not in ("exact", "fast"):
        raise OptionError(f"precision {precision!r} is unknown; choose exact or fast")
    if isinstance(keep, str) or not isinstance(keep, Sequence | Set):
        raise OptionError(f"keep={keep!r} is no list of layers; give their names or the modules themselves")
    for layer in keep:
        layer_name(source.module, layer)
    if isinstance(classifier, Prepared) and precision == classifier.precision:
        return classifier
    return _cached(source, precision)


def _cached(source: Classifier, precision: Precision) -> Prepared:
    signature = _signature(source.module)
    known = _PREPARED.setdefault(source, {})
    found = known.get(precision)
    if found is not None and found[0] == signature:
        return found[1]
    keep_freed_memory()
    known.pop(precision, None)
    del found
    # A graph and its nodes hold each other, and with them the weights: Python would let go of them much later. Looking
    # for them takes a tenth of a second, so it waits until there is something to gain.
    if sum(_DROPPED) > _COLLECT_ABOVE:
        _DROPPED.clear()
        gc.collect()
    prepared = Prepared(source, precision)
    finalize(prepared, _DROPPED.append, sum(tensor.nbytes for tensor in source.module.parameters()))
    known[precision] = (signature, prepared)
    return prepared


def forget(classifier: Classifier) -> None:
    """Let go of what was prepared of a classifier: for those who go through many of them."""
    _PREPARED.pop(classifier.source if isinstance(classifier, Prepared) else classifier, None)


def _signature(module: nn.Module) -> Signature:
    """Changes whenever a weight is replaced, moved or written to."""
    return tuple(_state_of(tensor) for tensor in (*module.parameters(), *module.buffers()))


def _state_of(tensor: Tensor) -> Signature:
    if is_lazy(tensor):
        raise ModelError("the network has lazy layers that never ran; run it once on a batch of its own size first")
    # A tensor made in inference mode does not count its changes: never equal to what it was.
    version = object() if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.device, tensor.dtype


def freeze(module: nn.Module) -> nn.Module:
    """A copy of a module in eval mode that shares the weights of the original but needs no gradients.

    Weights of 16 bits become float32 (and are no longer shared): their gradients would round to zero. What hangs on
    the module and cannot be copied (locks, files, generators) is shared.

    Raises:
        ModelError: if the module cannot be copied.
    """
    module = unwrapped(module)
    with torch.inference_mode(False), torch.no_grad():
        shared: dict[int, object] = {}
        for tensor in (*module.parameters(), *module.buffers()):
            shared[id(tensor)] = _frozen(tensor)
        try:
            frozen = _copy(module, shared)
        except Exception as error:
            raise ModelError(
                f"{type(module).__name__} cannot be copied ({error}); pass a module that copy.deepcopy takes"
            ) from error
        # TorchScript copies its weights itself, past the shared ones.
        for tensor in frozen.parameters():
            tensor.requires_grad_(False)
        return frozen.eval()


def _leaf(_name: str, output: Tensor) -> Tensor:
    return output.detach().requires_grad_() if output.is_floating_point() else output


def _frozen(tensor: Tensor) -> Tensor:
    fixed = tensor.detach()
    if fixed.dtype in (torch.float16, torch.bfloat16):
        fixed = fixed.float()
    elif fixed.is_inference():  # autograd refuses them
        fixed = fixed.clone()
    return nn.Parameter(fixed, requires_grad=False) if isinstance(tensor, nn.Parameter) else fixed


def _copy(module: nn.Module, shared: dict[int, object]) -> nn.Module:
    """A deep copy; where that fails, one that shares the attributes that are no modules and cannot be copied."""
    try:
        return copy.deepcopy(module, dict(shared))
    except Exception:  # an attribute's own copying code may raise anything
        kept = dict(shared)
        for child in module.modules():
            for value in vars(child).values():
                if id(value) not in kept and not _copies(value, kept):
                    kept[id(value)] = value.detach() if isinstance(value, Tensor) else value
        return copy.deepcopy(module, kept)


def _copies(value: object, shared: dict[int, object]) -> bool:
    try:
        copy.deepcopy(value, dict(shared))
    except Exception:
        return False
    return True
