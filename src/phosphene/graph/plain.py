"""Whether a module is known to do what its class of torch.nn is documented to do, and nothing else.

Only such modules may run by another way, or in windows; everything else runs as it is written.
"""

from __future__ import annotations

import operator

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

# Convolutions that are known to pad as TensorFlow's SAME does, by where they are defined.
_SAME_PADDING = {
    ("phosphene.zoo.efficientnet_lite", "SamePadConv2d"),
    ("timm.layers.conv2d_same", "Conv2dSame"),
}

# The attribute that notes them.
_WEIGHTS = "_phosphene_weights"


def is_plain(module: nn.Module) -> bool:
    """Whether a module of torch.nn in eval mode is neither subclassed, patched, hooked nor parametrized.

    A convolution that is known to pad as TensorFlow's SAME is plain too.

    Example:
        >>> plain, hooked, patched = nn.ReLU().eval(), nn.ReLU().eval(), nn.ReLU().eval()
        >>> _ = hooked.register_forward_hook(lambda module, given, output: 2 * output)
        >>> patched.forward = lambda values: values
        >>> [is_plain(module) for module in (plain, hooked, patched)]
        [True, False, False]
    """
    kind = type(module)
    if not (kind.__module__.startswith("torch.nn.modules.") or pads_same(module)):
        return False
    # (A class whose method was exchanged by hand shows it by where that was defined.)
    methods = [getattr(kind, name, None) for name in ("forward", "_conv_forward")]
    if kind.__call__ is not nn.Module.__call__:
        return False
    own = all(method is None or method.__module__.startswith(("torch.nn.", *_homes())) for method in methods)
    return own and not module.training and not is_changed(module)


def is_changed(module: nn.Module) -> bool:
    """Whether an instance has a forward of its own, hooks, or weights that are no plain parameters."""
    own = vars(module)
    if is_hooked(module) or any(name in own for name in ("forward", "_conv_forward", "__call__", "weight", "bias")):
        return True
    return any(type(value) is not nn.Parameter for value in module._parameters.values() if value is not None)


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody sees what a module is given, returns, or passes back."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def keep_weights(module: nn.Module) -> None:
    """Note which weights a module has, so that `is_swapped` sees others."""
    vars(module)[_WEIGHTS] = list(module._parameters.values())


def is_swapped(module: nn.Module) -> bool:
    """Whether it has other weights than were kept, as while torch.func.functional_call runs."""
    return not all(map(operator.is_, module._parameters.values(), vars(module)[_WEIGHTS]))


def any_global_hook() -> bool:
    """Whether somebody sees what every module is given or returns."""
    return bool(_has_any_global_hook())  # type: ignore[no-untyped-call]


def pads_same(module: nn.Module) -> bool:
    """Whether a module is a convolution of a known class that pads as TensorFlow's SAME."""
    return (type(module).__module__, type(module).__name__) in _SAME_PADDING


def _homes() -> tuple[str, ...]:
    return tuple(home for home, _ in _SAME_PADDING)
