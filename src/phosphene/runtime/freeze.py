"""A private copy of a network: nothing that runs in it can reach the user's own."""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from phosphene.classifier import loose_tensors, unwrapped
from phosphene.errors import ModelError
from phosphene.runtime.comparable import BASE, HOOKS, is_own_dict, is_plain
from phosphene.runtime.surroundings import contents, globals_read, held, names_used


def freeze(module: nn.Module) -> nn.Module:
    """A copy of a module in eval mode that shares no tensor with the original and needs no gradients.

    Layers that merge weights in `eval()`, write buffers in forward or keep statistics then do so in the copy. Weights
    of 16 bits become float32: their gradients would round to zero. Functions that hold layers of the original (a
    patched forward, a hook) are made anew around those of the copy. What hangs on the module and cannot be copied
    (locks, files, generators) is shared.

    Raises:
        ModelError: if the module cannot be copied, or reaches the original by a way that a copy cannot follow.
    """
    module = unwrapped(module)
    with torch.inference_mode(False), torch.no_grad():
        held_by_it = [*nn.Module.parameters(module), *nn.Module.buffers(module)]
        tensors = {id(tensor): _own(tensor) for tensor in held_by_it}
        for tensor in filter(is_plain, held_by_it):
            _hang_on(tensors[id(tensor)], vars(tensor), tensors)
        there = (*tensors.values(), *loose_tensors(module))
        if tensors and all(tensor.device.type == "meta" for tensor in there):
            raise ModelError(f"the weights of {type(module).__name__} have no values (device 'meta'); load them first")
        # What a graph notes of its nodes (stand-ins for tensors, of an exported network) can be no part of a copy.
        graphs = (vars(child).get(name) for child in module.modules() for name in ("graph", "_graph"))
        notes: dict[int, dict[str, Any]] = {
            id(node.meta): {} for graph in graphs if isinstance(graph, fx.Graph) for node in graph.nodes
        }
        frozen = duplicate(module, {**tensors, **notes})
        # TorchScript copies its weights itself, past the given ones.
        for tensor in frozen.parameters():
            tensor.requires_grad_(False)
        try:
            frozen.eval()  # (one of the network's own may return nothing)
        except Exception:  # or take the pictures that it is to be measured on, or refuse to be changed at all
            for child in frozen.modules():
                vars(child)["training"] = False
        return frozen


def duplicate(module: nn.Module, replaced: Mapping[int, Any]) -> nn.Module:
    """A copy of a module's structure in which what has these identities, its tensors, is replaced.

    Raises:
        ModelError: as for `freeze`.
    """
    try:
        copied, known = _deep_copy(module, replaced)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be copied ({error}); pass a module that copy.deepcopy takes"
        ) from error
    # torchvision's feature extractors come back in train mode; frozen TorchScript has no modes.
    if getattr(copied, "training", False) and not getattr(module, "training", True):
        copied.eval()
    mine = set(map(id, module.modules()))  # (a network may have an equality of its own)
    for name, child in copied.named_modules():
        if id(child) in mine:
            raise ModelError(
                f"layer '{name}' ({type(child).__name__}) hands out itself where it is copied, so that passes would "
                "run in the original; give it a __deepcopy__ that copies, or none"
            )
    own = _Own(module, replaced, known)
    for name, child in copied.named_modules():
        own.rebind(child, f"layer '{name}'" if name else "the network")
        inner = getattr(child, "_orig_mod", None)
        if isinstance(inner, nn.Module):  # what was compiled would be compiled anew, and hide what is to be seen
            vars(child)["forward"] = inner.__call__
    return copied


def _own(tensor: Tensor) -> Tensor:
    if is_lazy(tensor):
        raise ModelError("the network has lazy layers that never ran; run it once on a batch of its own size first")
    try:
        tensor.is_inference() or tensor._version
    except RuntimeError:
        raise ModelError(
            "the network was made in inference mode and its weights converted outside of it, where PyTorch itself "
            "cannot run them any more; make it outside of inference mode"
        ) from None
    fixed = tensor.detach().clone()
    if fixed.dtype in (torch.float16, torch.bfloat16):
        fixed = fixed.float()
    if not isinstance(tensor, nn.Parameter):
        return fixed
    if type(tensor) is not nn.Parameter and type(fixed) is Tensor and issubclass(type(tensor), nn.Parameter):
        return torch.Tensor._make_subclass(type(tensor), fixed, False)  # (of a class of its own, for which code asks)
    return nn.Parameter(fixed, requires_grad=False)


def _hang_on(copied: Tensor, attributes: Mapping[str, Any], tensors: Mapping[int, Tensor]) -> None:
    """Give a copied tensor copies of what code has hung on the original, such as a mask on a weight."""
    for name, value in attributes.items():
        known: dict[int, Any] = dict(tensors)
        _share(value, known)
        vars(copied).setdefault(name, copy.deepcopy(value, known))


def _deep_copy(module: nn.Module, tensors: Mapping[int, Any]) -> tuple[nn.Module, dict[int, Any]]:
    """(a deep copy, what it was made of by identity); what cannot be copied is shared if it is no module."""
    try:
        return _copied(module, dict(tensors))
    except Exception:  # an attribute's own copying code may raise anything
        known: dict[int, Any] = dict(tensors)
        for child in module.modules():
            for key, value in vars(child).items():
                if key not in BASE:
                    _share(value, known)
                elif key in HOOKS:  # (an object that is a hook may keep features with their gradient)
                    for hook in value.values():
                        _share(getattr(hook, "__self__", hook), known)
        return _copied(module, known)


def _copied(module: nn.Module, known: dict[int, Any]) -> tuple[nn.Module, dict[int, Any]]:
    # (Past their own way to be copied, which would leave the copy without attributes.)
    for child in module.modules():
        for value in vars(child).values():
            if is_own_dict(value):
                _copy_dict(value, known)
    return copy.deepcopy(module, known), known


def _copy_dict(value: dict[Any, Any], known: dict[int, Any]) -> None:
    """Make the copy of a dict of a class of its own, item by item, past its way to be copied."""
    made: Any = type(value).__new__(type(value))
    if is_own_dict(value):
        made.__dict__ = made
    known[id(value)] = made
    dict.update(made, {key: copy.deepcopy(item, known) for key, item in value.items()})


def _share(value: Any, known: dict[int, Any], depth: int = 4) -> None:
    """Note what cannot be copied as shared: of containers only those items, of tensors the values are copied."""
    if isinstance(value, RemovableHandle):  # (a shared one would remove the original's hook when the copy goes)
        return
    if id(value) in known or (error := _copy_error(value, known)) is None:
        return
    if isinstance(value, Tensor):
        known[id(value)] = value.detach().clone()
    elif isinstance(value, Mapping):
        for item in value.values():
            _share(item, known, depth)
        # (Whose every attribute is an item cannot be copied, as it has no way to be.)
        if isinstance(value, dict) and type(value) is not dict and _copy_error(value, known):
            _copy_dict(value, known)
    elif isinstance(value, list | tuple):
        for item in value:
            _share(item, known, depth)
    elif isinstance(value, nn.Module):
        for key, item in vars(value).items():
            if key not in BASE:
                _share(item, known, depth)
    elif isinstance(error, RuntimeError) and depth and hasattr(value, "__dict__"):
        # An object that keeps a tensor with a gradient, as a hook does that hands features on: a copy of its own.
        for item in vars(value).values():
            _share(item, known, depth - 1)
        if _copy_error(value, known) is not None:
            known[id(value)] = value
    else:
        known[id(value)] = value


def _copy_error(value: object, known: Mapping[int, Any]) -> Exception | None:
    try:
        copy.deepcopy(value, dict(known))
    except Exception as error:  # an attribute's own copying code may raise anything
        return error
    return None


class _Own:
    """The modules and tensors of an original, and how what reaches them is made to reach their copies.

    Args:
        original: a network.
        tensors: those of it that have copies, by identity.
        known: the copies of all of it, by identity.
    """

    def __init__(self, original: nn.Module, tensors: Mapping[int, Any], known: dict[int, Any]) -> None:
        self.original, self.known = original, known
        self.originals = {id(child) for child in original.modules()} | set(tensors)
        self.copies = {id(value) for value in known.values() if isinstance(value, nn.Module | Tensor)}

    @functools.cached_property
    def _mentioned(self) -> Set[str]:
        return names_used(self.original.modules())

    def rebind(self, child: nn.Module, where: str) -> None:
        """Exchange the functions of a copied module that reach the original.

        Raises:
            ModelError: for one that cannot be exchanged.
        """
        for key, value in list(vars(child).items()):
            if key in HOOKS:
                for handle, hook in list(value.items()):
                    value[handle] = self._exchanged(hook, f"a hook of {where}")
            elif isinstance(value, types.FunctionType | functools.partial):
                # (Past nn.Module's own __setattr__, which a network may have replaced.)
                vars(child)[key] = self._exchanged(value, f"the attribute '{key}' of {where}")
            elif isinstance(value, weakref.ReferenceType) and isinstance(value(), nn.Module | Tensor):
                vars(child)[key] = functools.partial(_same, copy.deepcopy(value(), self.known))
            elif key not in BASE and (found := self._keyed_anew(value)) is not None:
                vars(child)[key] = found
        for kind in type(child).__mro__:
            if kind.__module__.startswith("torch."):
                break
            # What all instances of a class share, but for what no pass reads, as a default for those to be made.
            for key, value in vars(kind).items():
                if isinstance(value, nn.Module) and key in self._mentioned:
                    raise self._refusal(f"the attribute '{key}' of the class {kind.__name__} ({where})")
        forward = getattr(type(child), "forward", None)
        if isinstance(forward, types.FunctionType) and any(map(self._reaches, held(forward))):
            raise self._refusal(f"the forward of {where} ({type(child).__name__})")

    def _keyed_anew(self, value: Any) -> Any:
        """What is kept by module or tensor, weakly or by identity, with the copies as keys; None for anything else.

        A weak dictionary's own copy has the keys of the original.
        """

        def mine(item: Any) -> Any:
            return self.known.get(id(item), item) if id(item) in self.originals else item

        if isinstance(value, weakref.WeakSet):
            return type(value)(map(mine, value))
        if isinstance(value, weakref.WeakKeyDictionary | weakref.WeakValueDictionary):
            return type(value)({mine(key): mine(item) for key, item in value.items()})
        if type(value) in (dict, OrderedDict) and any(type(key) is int and key in self.originals for key in value):
            ids = {key: id(self.known[key]) for key in self.originals if key in self.known}
            return type(value)((ids.get(key, key) if type(key) is int else key, item) for key, item in value.items())
        return None

    def _exchanged(self, value: Any, what: str) -> Any:
        if isinstance(value, functools.partial):
            arguments = [self._copied(item, what) for item in value.args]
            keywords = {key: self._copied(item, what) for key, item in value.keywords.items()}
            return functools.partial(self._copied(value.func, what), *arguments, **keywords)
        if not isinstance(value, types.FunctionType):
            return value
        if not (any(map(self._reaches, held(value))) or self._holds(value)):
            return value
        if any(self._reaches(value.__globals__.get(name)) for name in globals_read(value)):
            raise self._refusal(what)
        cells = tuple(types.CellType(self._copied(content, what)) for content in contents(value))
        defaults = value.__defaults__ and tuple(self._copied(item, what) for item in value.__defaults__)
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults, cells)
        made.__kwdefaults__ = value.__kwdefaults__ and {
            key: self._copied(item, what) for key, item in value.__kwdefaults__.items()
        }
        return made

    def _copied(self, value: Any, what: str) -> Any:
        if not (self._reaches(value) or self._holds(value)):
            return value
        if isinstance(value, types.FunctionType | functools.partial):
            return self._exchanged(value, what)
        try:
            found = copy.deepcopy(value, self.known)
        except Exception as error:
            raise self._refusal(what) from error
        if self._reaches(found):
            raise self._refusal(what)
        return found

    def _reaches(self, value: Any, depth: int = 4) -> bool:
        """Whether a value is a part of the original, or a function or container that holds one."""
        if isinstance(value, nn.Module | Tensor):
            return id(value) in self.originals
        return depth > 0 and any(self._reaches(inner, depth - 1) for inner in held(value))

    def _holds(self, value: Any, depth: int = 4) -> bool:
        """Whether a value is a module or tensor of anybody's that is no copy of ours, or holds one.

        Or a container or object that the network has as an attribute too, such as the dict that its hooks fill.
        """
        if isinstance(value, nn.Module | Tensor):
            return id(value) not in self.copies
        if self.known.get(id(value), value) is not value:
            return True
        return depth > 0 and any(self._holds(inner, depth - 1) for inner in held(value, globals_too=False))

    def _refusal(self, what: str) -> ModelError:
        return ModelError(
            f"{what} reaches the network's own layers or weights past its attributes (through a closure or a global "
            "name), so a copy of the network would run the original's; give it as an attribute of the module"
        )


def _same(value: Any) -> Any:
    return value
