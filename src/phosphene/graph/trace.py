"""A network as an FX graph, and the names of its layers."""

from __future__ import annotations

import gc
import inspect
import math
import threading
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from phosphene.errors import NotFoundError, suggest
from phosphene.graph.function_module import check_inside
from phosphene.graph.plain import is_hooked

LayerName = str | nn.Module


# Before the names of layers of a network that DataParallel or torch.compile wraps; what they wrap is what runs here.
# Pixels of the pictures that most first networks learn from.
_MNIST = 28 * 28
_WRAPPERS = ("module.", "_orig_mod.")


def layer_name(module: nn.Module, layer: LayerName) -> str:
    """The dotted name of a layer given by name or as the module itself; of one that has several the first.

    Raises:
        NotFoundError: with the nearest names.
        ModelError: of a function of pictures, which has no layers.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> layer_name(net, net[1]), layer_name(net, "0")
        ('1', '0')
    """
    check_inside(module, f"what layer '{layer}' is asked of")
    names = dict(module.named_modules(remove_duplicate=False))
    if isinstance(layer, nn.Module):
        if layer is module:
            raise NotFoundError("the layer is the whole network; name one inside of it")
        for name, child in names.items():
            if child is layer:
                return str(name)
        raise NotFoundError(f"the layer {type(layer).__name__} is no part of this {type(module).__name__}")
    if not isinstance(layer, str):
        shown = repr(layer).partition("\n")[0][:60]
        raise NotFoundError(f"layer {shown} is no layer; give its dotted name or the module itself")
    for wrapper in ("", *_WRAPPERS):
        child = names.get(layer.removeprefix(wrapper)) if layer and layer.startswith(wrapper) else None
        if child is not None and child is not module:
            return next(str(name) for name, other in names.items() if other is child)
    known = [name for name in names if name]
    shown = suggest(str(layer), known) or f" (there are {len(known)}: {', '.join(known[:6])} ...)"
    raise NotFoundError(f"no layer '{layer}' in {type(module).__name__}{shown}")


def input_channels(module: nn.Module) -> int:
    """Channels of the pictures that a network takes: those of its first convolution, 3 if it has none.

    Also 3 where a linear layer comes before one of more channels than pictures usually have: it takes patches then,
    and the convolution what is made of them. Of linear layers alone the first takes a square of gray values or colors.

    Example:
        >>> input_channels(nn.Sequential(nn.Conv2d(5, 4, 3), nn.Conv2d(4, 2, 3)))
        5
        >>> input_channels(nn.Sequential(nn.Linear(48, 16), nn.Conv2d(16, 2, 3)))
        3
        >>> input_channels(nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)))
        1
    """
    layers = [child for child in module.modules() if isinstance(child, nn.Conv2d | nn.Linear)]
    if _takes_gray_pixels(module):
        return 1
    found = next((child.in_channels for child in layers if isinstance(child, nn.Conv2d)), 3)
    # (A lazy convolution has none yet.)
    return 3 if not found or (found > 4 and isinstance(layers[0], nn.Linear)) else found


def _takes_gray_pixels(module: nn.Module) -> bool:
    """Whether it begins with a linear layer over all pixels of a square in gray: of three colors they are none.

    Told of MNIST's 28 x 28 pixels, and of what an nn.Flatten right before it hands on; nothing else may look at places.
    """
    parts = [child for child in module.modules() if not list(child.children())]
    tensors = (*module.parameters(), *module.buffers())
    places = [place for place, child in enumerate(parts) if isinstance(child, nn.Linear)]
    if not places or isinstance(module, torch.jit.ScriptModule) or any(tensor.ndim > 2 for tensor in tensors):
        return False
    pixels = int(parts[places[0]].in_features)  # type: ignore[arg-type]
    flattened = places[0] > 0 and isinstance(parts[places[0] - 1], nn.Flatten)
    return pixels == _MNIST or (flattened and pixels > 0 and math.isqrt(pixels) ** 2 == pixels)


def trace(module: nn.Module) -> fx.GraphModule | None:
    """The network as an FX graph, or None if its Python code depends on data, or hooks run beside its forward.

    Leaf modules are those of torch.nn and childless subclasses of them, such as a convolution with padding of
    its own. The graph shares the module's weights.
    """
    if is_hooked(module):  # (of the outermost module FX reads the forward alone)
        return None
    tracer = _Tracer()
    try:
        with _LOCK:
            graph = tracer.trace(module)
        made = graph_module(module, graph)
        held = [attrgetter(str(node.target))(made) for node in graph.nodes if node.op == "get_attr"]
        # What is neither (a generator of random numbers) the graph would go on using, where the code makes a new one.
        return made if all(isinstance(value, Tensor | nn.Module) for value in held) else None
    except Exception:  # tracing runs arbitrary user code on proxies: anything may be raised
        return None
    finally:
        tracer.root = nn.Module()  # (tracer and graph hold each other, and with them the network)
        tracer.submodule_paths = None
        gc.collect(1)  # (some of FX's frames hold themselves, and with them all that called them: the pictures)


def graph_module(root: nn.Module | dict[str, Any], graph: fx.Graph) -> fx.GraphModule:
    """A graph that is called as any module is: FX's own way prints what is thrown, though somebody catch it."""
    made = fx.GraphModule(root, graph)
    del type(made).__call__  # (each has a class of its own)
    return made


# While FX reads a network it exchanges methods of nn.Module for the whole process: one network at a time.
_LOCK = threading.RLock()


class _Tracer(fx.Tracer):
    """Keeps what is in essence a torch.nn layer whole, and lets what other threads run meanwhile run as it is."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """What is read, and what it is given: the pictures alone where the signature does not say, as a wrapper's."""
        assert isinstance(self.root, nn.Module)
        code = inspect.unwrap(root_fn).__code__
        if "forward" in vars(self.root) or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
            images = self.create_proxy("placeholder", "images", (), {})
            return (lambda root, images: root.forward(images)), [self.root, images]
        return super().create_args_for_root(root_fn, is_module, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the graph shows the module as one node."""
        derived = any(
            base.__module__.startswith("torch.nn.modules") for base in type(m).__mro__[:-2] if base is not nn.Module
        )
        childless = next(m.children(), None) is None
        return super().is_leaf_module(m, module_qualified_name) or (derived and childless)


def with_values(traced: fx.GraphModule, nodes: Iterable[fx.Node]) -> fx.GraphModule:
    """A graph module that returns (output, values of the nodes), sharing the weights."""
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(traced.graph, mapping)
    graph.output((output, tuple(mapping[node] for node in nodes)))
    return graph_module(traced, graph)
