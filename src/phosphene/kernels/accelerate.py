"""The one door: a network whose plain modules run by oneDNN, with what follows them folded in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from phosphene.graph import Kernel, Successor, convolution_kernel, is_plain, keep_weights, pooling_kernel, successors
from phosphene.kernels.chain import Arithmetic, Chain, Follower
from phosphene.kernels.elementwise import Activation
from phosphene.kernels.linear import GlobalPool, Linear

# What of finite numbers may make NaN, or an infinity from which NaN comes: at zero, below it, or beyond one.
_NO_NUMBERS = (
    "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "pow", "exp", "expm1", "float_power", "div",
    "truediv", "itruediv", "true_divide", "divide", "fmod", "remainder", "acos", "asin", "atanh", "acosh", "arccos",
    "arcsin", "arctanh", "arccosh", "tan", "logsumexp", "xlogy", "logit", "lgamma", "digamma", "norm", "normalize",
    "var", "std",
)  # fmt: skip
# The part of the convolutions, counted from the end, that few ReLUs follow.
_LATE = 1 / 3


def accelerate(module: nn.Module, traced: fx.GraphModule | None, arithmetic: Arithmetic) -> nn.Module:
    """The module itself, its plain convolutions, linear layers and global pools exchanged for faster ones.

    What is not plain (`graph.is_plain`), not in float32 or not on the processor runs as it is; so does all of it where
    this build of PyTorch lacks oneDNN.

    Args:
        module: a network of one's own in eval mode, without gradients; the way its modules run is exchanged.
        traced: its graph, which tells what follows what; None joins nothing.
        arithmetic: what it is to compute in.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval().requires_grad_(False)
        >>> images = torch.rand(2, 3, 8, 8)
        >>> expected = net(images)
        >>> torch.allclose(accelerate(net, fx.symbolic_trace(net), Arithmetic())(images), expected, atol=1e-6)
        True
    """
    if not _is_supported(module):
        return module
    names = {child: name for name, child in module.named_modules()}
    late, chains = _late(names, traced), dict[str, Chain]()
    for child, name in names.items():
        if isinstance(child, nn.Conv2d):
            kernel = convolution_kernel(child)
            if kernel is not None and child.weight.dtype == torch.float32:
                chains[name] = Chain(child, kernel, arithmetic, late=name in late)
        elif type(child) is nn.Linear and is_plain(child) and child.weight.dtype == torch.float32:
            _replace(child, Linear(child))
        elif type(child) is nn.AdaptiveAvgPool2d and is_plain(child) and child.output_size in (1, (1, 1)):
            _replace(child, GlobalPool(child))
    following = {} if traced is None else successors(traced)
    cutting = traced is not None and not _may_make_nan(traced)
    for name, chain in chains.items():
        behind = following.get(name, [])
        chain.followers += _followers(module, chain.convolution, behind, cutting=cutting)
        rest = behind[len(chain.followers) :]
        if rest and rest[0].name in chains:
            chain.then = chains[rest[0].name], _modules(module, rest[0].boundaries)
    for chain in chains.values():
        _replace(chain.convolution, chain)
        for follower in chain.followers:
            _replace(follower.module, follower)
    return module


def restore(module: nn.Module) -> None:
    """Let the modules of an accelerated network run as they were written."""
    for child in filter(is_kernel, module.modules()):
        del child.forward


def is_kernel(module: nn.Module) -> bool:
    """Whether the way a module runs was exchanged."""
    return isinstance(vars(module).get("forward"), Chain | Follower | Linear | GlobalPool)


def kernel_of(module: nn.Module) -> Kernel | None:
    """The geometry of a convolution or pooling layer of an accelerated network; None for any other module."""
    run = vars(module).get("forward")
    if isinstance(run, Chain):
        return run.kernel
    return convolution_kernel(module) if isinstance(module, nn.Conv2d) else pooling_kernel(module)


def run_valid(module: nn.Module, patches: Tensor) -> Tensor:
    """A convolution or pooling layer on patches that hold their padding already, without a gradient."""
    run = vars(module).get("forward")
    if isinstance(run, Chain):
        return run.valid(patches)
    if isinstance(module, nn.Conv2d):
        return nn.functional.conv2d(
            patches, module.weight, module.bias, module.stride, 0, module.dilation, module.groups
        )
    if isinstance(module, nn.MaxPool2d):
        return nn.functional.max_pool2d(patches, module.kernel_size, module.stride, 0, module.dilation)
    return nn.functional.avg_pool2d(patches, module.kernel_size, module.stride)  # type: ignore[arg-type]


def _followers(
    module: nn.Module, convolution: nn.Conv2d, behind: Sequence[Successor], *, cutting: bool
) -> Iterator[Follower]:
    """The modules right behind a convolution that it does the work of: a norm, and if it is `cutting` activations."""
    for place, successor in enumerate(behind):
        child = module.get_submodule(successor.name)
        cuts = Activation.of(child) is not None
        if not is_plain(child) or not ((cuts and cutting) or (place == 0 and _is_foldable(child, convolution))):
            return
        yield Follower(child, _modules(module, successor.boundaries))
        if cuts:
            return


def _is_foldable(norm: nn.Module, convolution: nn.Conv2d) -> bool:
    if type(norm) is not nn.BatchNorm2d or norm.running_mean is None or norm.running_var is None:
        return False
    return norm.num_features == convolution.out_channels and norm.running_mean.dtype == torch.float32


def _may_make_nan(traced: fx.GraphModule) -> bool:
    """Whether a network may make of numbers what is none: cut together with a convolution it would become 0."""
    computed: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if node.op == "placeholder" or computed & set(node.all_input_nodes):
            computed.add(node)
            name = str(getattr(node.target, "__name__", node.target)).rstrip("_")  # (in place or not)
            # (What is divided by a number, or by what the network holds, is no quotient of two values.)
            by = node.args[1:] if "div" in name else node.all_input_nodes
            whole = "pow" in name and isinstance(node.args[-1], int) and node.args[-1] >= 0
            called = node.op in ("call_function", "call_method") and name in _NO_NUMBERS
            if called and not whole and computed & {*by}:
                return True
    return False


def _modules(module: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    return [module.get_submodule(name) for name in names]


def _late(names: dict[nn.Module, str], traced: fx.GraphModule | None) -> set[str]:
    """The names of the last convolutions, in the order in which they run where that is known."""
    ordered = [name for module, name in names.items() if isinstance(module, nn.Conv2d)]
    if traced is not None:
        turn = {str(node.target): place for place, node in enumerate(traced.graph.nodes)}
        ordered.sort(key=lambda name: turn.get(name, -1))
    return set(ordered[len(ordered) - int(_LATE * len(ordered)) :])


def _is_supported(module: nn.Module) -> bool:
    operation = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return operation and all(tensor.device.type == "cpu" for tensor in (*module.parameters(), *module.buffers()))


def _replace(module: nn.Module, run: Callable[[Tensor], Tensor]) -> None:
    # On the instance: the class, the name and the weights of the module stay what they are.
    object.__setattr__(module, "forward", run)
    keep_weights(module)
