"""Reading a network without running it on data: FX graph, layer names, default layer, linear head."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from phosphene.errors import ModelError, NotFoundError, suggest
from phosphene.types import Layer

LayerName = str | nn.Module
Pads = tuple[tuple[int, int], tuple[int, int]]

# Modules that pass on values unchanged in eval mode (softmax aside).
_PASSIVE_MODULES = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Flatten, nn.Identity, nn.Softmax, nn.LogSoftmax)
_PASSIVE_FUNCTIONS = {torch.flatten, F.dropout, F.dropout2d, torch.reshape, torch.squeeze, operator.getitem}
_PASSIVE_METHODS = {"flatten", "view", "reshape", "squeeze", "contiguous"}
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}  # functions, and methods by name


def layer_name(module: nn.Module, layer: LayerName) -> str:
    """The dotted name of a layer given by name or as the module itself.

    Raises:
        NotFoundError: with the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> layer_name(net, net[1]), layer_name(net, "0")
        ('1', '0')
    """
    names = dict(module.named_modules(remove_duplicate=False))
    if isinstance(layer, nn.Module):
        for name, child in names.items():
            if child is layer:
                return str(name)
        raise NotFoundError(f"the layer {type(layer).__name__} is no part of this {type(module).__name__}")
    if layer and layer in names:
        return str(layer)
    known = [name for name in names if name]
    shown = suggest(str(layer), known) or f" (there are {len(known)}: {', '.join(known[:6])} ...)"
    raise NotFoundError(f"no layer '{layer}' in {type(module).__name__}{shown}")


def input_channels(module: nn.Module) -> int:
    """Channels of the pictures that a network takes: those of its first convolution, 3 if it has none.

    Example:
        >>> input_channels(nn.Sequential(nn.Conv2d(5, 4, 3), nn.Conv2d(4, 2, 3)))
        5
    """
    convolutions = (child for child in module.modules() if isinstance(child, nn.Conv2d))
    return next((child.in_channels for child in convolutions), 3)


def trace(module: nn.Module) -> fx.GraphModule | None:
    """The network as an FX graph, or None if its Python code depends on data.

    Leaf modules are those of torch.nn and childless subclasses of them, such as a convolution with padding of
    its own. The graph shares the module's weights.
    """
    try:
        return fx.GraphModule(module, _Tracer().trace(module))
    except Exception:  # tracing runs arbitrary user code on proxies: anything may be raised
        return None


class _Tracer(fx.Tracer):
    """Keeps what is in essence a torch.nn layer whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the graph shows the module as one node."""
        derived = any(
            base.__module__.startswith("torch.nn.modules") for base in type(m).__mro__[:-2] if base is not nn.Module
        )
        childless = next(m.children(), None) is None
        return super().is_leaf_module(m, module_qualified_name) or (derived and childless)


@dataclass(frozen=True)
class LinearHead:
    """The end of a network that class activation maps need: features -> mean over places -> linear.

    Args:
        node: the FX node whose value (N, k, h, w) is averaged over its places.
        weight: (K, k), or None where the averaged channels are the classes themselves.
        bias: (K,) or None.
        layer: the module the averaged value comes from, for reports.
    """

    node: str
    weight: Tensor | None
    bias: Tensor | None
    layer: str


def linear_head(traced: fx.GraphModule, scores: fx.Node) -> LinearHead:
    """The linear head of a traced network.

    Args:
        traced: the graph.
        scores: the node that holds the class scores, out of `outputs(traced)`.

    Raises:
        ModelError: naming the operation that stands where pooling or a linear layer was expected.
    """
    node = _skip_passive(traced, scores)
    weight, bias, features = _linear_parameters(traced, node)
    pool = _skip_passive(traced, features if weight is not None else node)
    if not _is_global_average(traced, pool):
        raise ModelError(
            f"no class activation map: the network ends in '{_describe(traced, pool)}', not in global average pooling "
            "and one linear layer; use grad_cam, which needs neither"
        )
    averaged = _skip_passive(traced, pool.args[0] if pool.args else pool.kwargs["input"], flatten=False)
    return LinearHead(averaged.name, weight, bias, _nearest_module(averaged))


def with_value(traced: fx.GraphModule, node_name: str) -> fx.GraphModule:
    """A graph module that returns (output, value of the node), sharing the weights."""
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(traced.graph, mapping)
    node = next(node for node in traced.graph.nodes if node.name == node_name)
    graph.output((output, mapping[node]))
    return fx.GraphModule(traced, graph)


@dataclass(frozen=True)
class Kernel:
    """Where a convolution or pooling layer looks: everything about it but the weights.

    Args:
        size: (height, width) of the kernel.
        stride: places between neighbouring windows.
        dilation: places between neighbouring taps.
        padding: places added on both sides, (vertical, horizontal); None for TensorFlow's SAME, which pads as
            little as the stride allows, the odd place right and below.

    Example:
        >>> Kernel((3, 3), (2, 2), padding=None).pads((224, 224))
        ((0, 1), (0, 1))
        >>> Kernel((3, 3), (2, 2), padding=(1, 1)).outputs((7, 224))
        (4, 112)
    """

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | None = (0, 0)

    def pads(self, size: Sequence[int]) -> Pads:
        """((above, below), (left, right)) for an input of `size` (height, width)."""
        (above, below), (left, right) = (self._pads(axis, size[axis]) for axis in (0, 1))
        return (above, below), (left, right)

    def _pads(self, axis: int, length: int) -> tuple[int, int]:
        if self.padding is not None:
            return self.padding[axis], self.padding[axis]
        stride, reach = self.stride[axis], self.dilation[axis] * (self.size[axis] - 1)
        total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
        return total // 2, total - total // 2

    def outputs(self, size: Sequence[int]) -> tuple[int, int]:
        """(height, width) of the output for an input of `size`."""
        rows, columns = (
            (length + sum(pads) - step * (taps - 1) - 1) // stride + 1
            for length, pads, step, taps, stride in zip(
                size, self.pads(size), self.dilation, self.size, self.stride, strict=True
            )
        )
        return rows, columns


def convolution_kernel(convolution: nn.Conv2d) -> Kernel | None:
    """The geometry of a convolution, or None where it is not plainly one of its weight and bias.

    A subclass with a forward of its own is tried out on a few inputs: it counts as a convolution if it gives what
    its own padding or SAME padding gives.
    """
    if convolution.padding_mode != "zeros" or not isinstance(convolution._parameters.get("weight"), nn.Parameter):
        return None
    size, stride = _pair(convolution.kernel_size), _pair(convolution.stride)
    dilation = _pair(convolution.dilation)
    if convolution.padding == "valid":
        padding = (0, 0)
    elif isinstance(convolution.padding, str):
        reach = [step * (taps - 1) for step, taps in zip(dilation, size, strict=True)]
        if any(value % 2 for value in reach):
            return None
        padding = (reach[0] // 2, reach[1] // 2)
    else:
        padding = _pair(convolution.padding)
    kernel = Kernel(size, stride, dilation, padding)
    if type(convolution).forward is nn.Conv2d.forward:
        return kernel
    return next((found for found in (kernel, replace(kernel, padding=None)) if _behaves(convolution, found)), None)


def pooling_kernel(module: nn.Module) -> Kernel | None:
    """The geometry of a pooling layer with windows of its own, or None for another module.

    Where padding takes part in the mean, or outputs are added at an incomplete edge, the geometry does not say all.
    """
    if not isinstance(module, nn.MaxPool2d | nn.AvgPool2d) or type(module) not in (nn.MaxPool2d, nn.AvgPool2d):
        return None
    padding, size, stride = _pair(module.padding), _pair(module.kernel_size), _pair(module.stride)
    if isinstance(module, nn.MaxPool2d):
        whole = not module.ceil_mode and not module.return_indices
        return Kernel(size, stride, _pair(module.dilation), padding) if whole else None
    plain = module.divisor_override is None and (module.count_include_pad or padding == (0, 0))
    return Kernel(size, stride, padding=padding) if plain and not module.ceil_mode else None


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _behaves(convolution: nn.Conv2d, kernel: Kernel) -> bool:
    """Whether the module gives what a convolution of this geometry gives, on an odd and an even size."""
    weight, bias = convolution.weight, convolution.bias
    with torch.no_grad():
        for extra in (5, 8):
            sides = [step * (taps - 1) + extra for step, taps in zip(kernel.dilation, kernel.size, strict=True)]
            count = convolution.in_channels * sides[0] * sides[1]
            inputs = torch.linspace(-20, 20, count, device=weight.device, dtype=weight.dtype).sin()
            inputs = inputs.view(1, -1, sides[0], sides[1])
            (above, below), (left, right) = kernel.pads(sides)
            padded = F.pad(inputs, (left, right, above, below))
            wanted = F.conv2d(padded, weight, bias, kernel.stride, 0, kernel.dilation, convolution.groups)
            try:
                got = convolution(inputs)
            except Exception:  # the forward of a subclass may refuse anything
                return False
            if not isinstance(got, Tensor) or got.shape != wanted.shape or not torch.allclose(got, wanted, 1e-4, 1e-5):
                return False
    return True


def residual_branches(traced: fx.GraphModule) -> tuple[str, ...]:
    """The modules at the end of residual branches: their output is added to a value that they were computed from.

    Found are branches that end in a module that is used for nothing else, or in functions of one alone. A block whose
    way past itself holds a layer of its own (a projection) has no branch: both ways lead through weights. Nor is a
    branch found that ends in a product of two values (squeeze and excitation), or that is the third term of a sum.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        ...     def forward(self, x):
        ...         return x + self.second(self.first(x).relu())
        >>> residual_branches(trace(Block()))
        ('second',)
    """
    ends: list[fx.Node] = []
    for node in traced.graph.nodes:
        terms = [term for term in (*node.args, *node.kwargs.values()) if isinstance(term, fx.Node)]
        if node.target not in _ADDITIONS or len(terms) != 2:
            continue
        one, other = (_skip_passive(traced, term, flatten=False) for term in terms)
        for branch, past in ((one, other), (other, one)):
            end = _only_module(branch)
            if end is not None and _is_computed_from(end, past):
                ends.append(end)
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    elsewhere = {call.target for call in calls if call not in ends}
    return tuple(dict.fromkeys(str(end.target) for end in ends if end.target not in elsewhere))


def _only_module(node: fx.Node) -> fx.Node | None:
    """The nearest module that all of a node's value comes through, and that is used for nothing but the node."""
    while len(node.users) == 1:
        if node.op == "call_module":
            return node
        sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if len(sources) != 1:
            return None
        (node,) = sources
    return None


def _is_computed_from(node: fx.Node, other: fx.Node) -> bool:
    """Whether another node's value is used, through any others, for this one's."""
    seen, waiting = set[fx.Node](), [node]
    while waiting:
        fresh = [source for source in waiting.pop().all_input_nodes if source not in seen]
        if other in fresh:
            return True
        seen.update(fresh)
        waiting.extend(fresh)
    return False


def outputs(traced: fx.GraphModule) -> Any:
    """What the network returns, as it returns it: a node, or a tuple or dict of nodes."""
    return next(node for node in reversed(traced.graph.nodes) if node.op == "output").args[0]


def _skip_passive(traced: fx.GraphModule, node: Any, *, flatten: bool = True) -> fx.Node:
    """Down through what does not change the values: dropout in eval mode, flatten, reshape, identity."""
    while isinstance(node, fx.Node):
        if node.op == "call_module":
            child = traced.get_submodule(str(node.target))
            passive = isinstance(child, _PASSIVE_MODULES) and not isinstance(child, nn.Softmax | nn.LogSoftmax)
            passive = passive or (type(child) is nn.Sequential and len(child) == 0)
            passive = passive and (flatten or not isinstance(child, nn.Flatten))
        elif node.op == "call_function":
            passive = node.target in _PASSIVE_FUNCTIONS - {operator.getitem} and (
                flatten or node.target in (F.dropout, F.dropout2d)
            )
        else:
            passive = flatten and node.op == "call_method" and node.target in _PASSIVE_METHODS
        if not passive or not node.args:
            return node
        node = node.args[0]
    raise ModelError("no class activation map: the network's output does not depend on its input; use grad_cam")


def _linear_parameters(traced: fx.GraphModule, node: fx.Node) -> tuple[Tensor | None, Tensor | None, Any]:
    """(weight, bias, input node) of the last linear layer or 1 x 1 convolution after pooling; else Nones."""
    if node.op == "call_module":
        child = traced.get_submodule(str(node.target))
        if isinstance(child, nn.Linear):
            return child.weight, child.bias, node.args[0]
        if (
            isinstance(child, nn.Conv2d)
            and _is_pointwise(child)
            and _is_global_average(traced, _skip_passive(traced, node.args[0]))
        ):
            return torch.flatten(child.weight, 1), child.bias, node.args[0]
    if node.op == "call_function" and node.target is F.linear:
        weight, bias = (_parameter(traced, argument) for argument in (*node.args[1:3], None)[:2])
        return weight, bias, node.args[0]
    return None, None, node


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == (1, 1) and convolution.groups == 1


def _parameter(traced: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = traced
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def _is_global_average(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        child = traced.get_submodule(str(node.target))
        if isinstance(child, nn.AdaptiveAvgPool2d):
            return child.output_size in (1, (1, 1))
        # A pool of fixed size is global on the size it was made for; the method checks the sum.
        return isinstance(child, nn.AvgPool2d)
    if node.op == "call_function" and node.target is F.adaptive_avg_pool2d:
        return (*node.args, node.kwargs.get("output_size"))[1] in (1, (1, 1), [1, 1])
    if node.op == "call_function" and node.target is F.avg_pool2d:
        return True
    if node.target in (torch.mean, "mean") and node.op in ("call_function", "call_method"):
        dims = node.kwargs.get("dim", (node.args[1:2] and node.args[1]) or node.args[1:])
        return sorted(dims if isinstance(dims, list | tuple) else [dims]) in ([-2, -1], [2, 3])
    return False


def _nearest_module(node: fx.Node) -> str:
    """The closest module below a node; what functions follow it is appended."""
    functions: list[str] = []
    while node.op not in ("call_module", "placeholder"):
        functions.append(str(getattr(node.target, "__name__", node.target)))
        below = [argument for argument in node.args if isinstance(argument, fx.Node)]
        if not below:
            break
        node = below[0]
    return " + ".join([str(node.target), *reversed(functions)])


def _describe(traced: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(traced.get_submodule(str(node.target))).__name__})"
    return str(getattr(node.target, "__name__", node.target))


def layer_before(layers: Sequence[Layer], name: str) -> str | None:
    """The layer that finished last before a layer began: its neighbour or that of the block it begins, or None.

    What lies inside the layer does not count, and a block that the layer is part of has not finished yet.

    Args:
        layers: what ran, in the order of completion (hooks.survey).
        name: one of them.

    Raises:
        NotFoundError: if no such layer ran.

    Example:
        >>> names = ("stem", "block.0.conv", "block.0", "block.1.conv", "block.1", "block")
        >>> ran = [Layer(name, "Module", (1,), turn) for turn, name in enumerate(names)]
        >>> [layer_before(ran, name) for name in ("block.1", "block.1.conv", "block", "stem")]
        ['block.0', 'block.0', 'stem', None]
    """
    names = [layer.name for layer in layers]
    if name not in names:
        raise NotFoundError(f"layer '{name}' did not run{suggest(name, names)}")
    inside = f"{name}."
    before = [other for other in names[: names.index(name)] if not other.startswith(inside)]
    return before[-1] if before else None
