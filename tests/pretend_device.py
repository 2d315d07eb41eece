"""A device that is none: tensors that compute on the CPU, say that they lie elsewhere, and are as particular as there.

A network moved to it with `.to(device)` finds what only a GPU would find otherwise:

- tensors of the two sides do not mix, but for single numbers from the CPU;
- the CPU's generators draw nothing on the device;
- nothing becomes a NumPy array without `.cpu()`;
- where `float64` is refused there is none, as on Apple's GPUs.

Beside that it counts what makes a GPU wait: values that the CPU asks for, and copies to and fro.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# What the CPU has to wait for: a number, a list of places, a size that depends on values.
_SYNCS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
}
# CUDA takes the CPU's numbers as places, and copies them over.
_PLACES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_NEVER_MIXED = {aten.cat.default, aten.stack.default}
# They change what a tensor is, not only what it holds.
_REFUSED = {aten.resize_.default, aten.set_.source_Tensor, aten.unsqueeze_.default, aten.squeeze_.dim, aten.t_.default}
# Put off by a mark on the tensor, which its wrapper would not have: done at once.
_PUT_OFF = {aten._conj.default: aten.conj_physical.default, aten._neg_view.default: aten.neg.default}
_WIDE = (torch.float64, torch.complex128)


class PretendDevice(TorchDispatchMode):
    """The device while it is switched on, by `pretend`; `device.place` is what tensors say.

    Args:
        name: a device that this build of PyTorch can name but does not have.
        float64: whether it has numbers of 64 bits; Apple's GPUs have none.
    """

    def __init__(self, name: str = "privateuseone:0", *, float64: bool = True) -> None:
        super().__init__()
        self.place = torch.device(name)
        self.float64 = float64
        self.tolerance = 1e-4
        self.counts: Counter[str] = Counter()
        """`sync`: values asked for; `down` and `up`: tensors copied to and from the CPU; `synchronize`: waits."""
        self.draws = 0
        """How often numbers were drawn at random on the device itself."""
        self._lifts: bool = False

    def __enter__(self) -> PretendDevice:
        self._lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(values, device=...) lets the copy be seen
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifts)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # (nothing is compiled here, and the guard against that costs as much as an operator)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self.run(func, args, kwargs or {})

    def means(self, device: Any) -> bool:
        """Whether a device is this one; inside PyTorch it goes by the name of meta."""
        return device is not None and torch.device(device).type in (self.place.type, "meta")

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operator, checked, counted, computed on the CPU, and its results put back on the device."""
        if torch.is_inference_mode_enabled() and func._can_decompose():  # elsewhere done before it comes here
            with self:
                return func.decompose(*args, **kwargs)
        leaves = _tensors(args, kwargs)
        ours = [leaf for leaf in leaves if isinstance(leaf, PretendTensor)]
        named = kwargs.get("device")
        here = self.means(named) if named is not None else bool(ours)
        if not ours and not here:
            return func(*args, **kwargs)
        if func in _REFUSED:
            raise NotImplementedError(f"{func} on a pretend tensor")
        if func in (aten.copy_.default, aten._to_copy.default):
            self._count_copy(func, args, here)
        else:
            self._refuse_mixed(func, leaves, ours)
        if here:
            self._refuse_generator(func, args, kwargs)
        if func in _SYNCS or (func in _PLACES and any(leaf.dtype == torch.bool for leaf in leaves[1:])):
            self.counts["sync"] += 1
        if named is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        kwargs.pop("pin_memory", None)
        whole = _each(args, _inner)
        keywords = {name: _each(value, _inner) for name, value in kwargs.items()}
        # All of them are ordinary tensors: a view would have to be what its base is.
        with torch.inference_mode(False), torch.no_grad():
            result = _PUT_OFF.get(func, func)(*whole, **keywords)
            own = {id(leaf.inner): leaf for leaf in ours}
            return _each(result, lambda leaf: self._back(leaf, own, here))

    def _back(self, leaf: Tensor, own: dict[int, PretendTensor], here: bool) -> Tensor:
        if id(leaf) in own:  # written to in place
            assert own[id(leaf)].shape == leaf.shape
            return own[id(leaf)]
        return self.wrapped(leaf) if here else leaf

    def wrapped(self, tensor: Tensor) -> PretendTensor:
        """A tensor of the CPU as one of the device."""
        if tensor.dtype in _WIDE and not self.float64:
            raise TypeError(f"Cannot convert a tensor on {self.place} to {tensor.dtype}: there is no float64")
        return PretendTensor(tensor, self)

    def _count_copy(self, func: Any, args: Any, here: bool) -> None:
        source = args[1] if func is aten.copy_.default else args[0]
        comes_from_here = isinstance(source, PretendTensor)
        goes_here = isinstance(args[0], PretendTensor) if func is aten.copy_.default else here
        if comes_from_here != goes_here and not (goes_here and source.ndim == 0):
            self.counts["up" if goes_here else "down"] += 1

    def _refuse_mixed(self, func: Any, leaves: list[Tensor], ours: list[PretendTensor]) -> None:
        strangers = [leaf for leaf in leaves if not isinstance(leaf, PretendTensor)]
        assert not any(leaf.is_meta for leaf in strangers), f"an empty tensor came into {func}"
        if not ours or not strangers:
            return
        if func in _PLACES and isinstance(leaves[0], PretendTensor):
            self.counts["up"] += 1
        elif func in _NEVER_MIXED or any(leaf.ndim > 0 for leaf in strangers):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {self.place} and "
                f"{strangers[0].device}! ({func})"
            )

    def _refuse_generator(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        names = [argument.name for argument in func._schema.arguments]
        if "generator" not in names:
            return
        if any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            raise RuntimeError(f"Expected a '{self.place.type}' device type for generator but found 'cpu'")
        self.draws += 1


class PretendTensor(Tensor):
    """A tensor of the pretend device. To the core of PyTorch it lies on meta, whose gradients the CPU's thread runs."""

    inner: Tensor
    owner: PretendDevice

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor, owner: PretendDevice) -> PretendTensor:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device="meta",
        )
        made.inner, made.owner = inner, owner
        return made  # type: ignore[no-any-return]

    def __init__(self, inner: Tensor, owner: PretendDevice) -> None:
        super().__init__()

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        owner = next(leaf.owner for leaf in _tensors(args, kwargs or {}) if isinstance(leaf, PretendTensor))
        with torch._C.DisableTorchFunction():
            return owner.run(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> PretendTensor:
        if id(self) not in memo:
            copied = self.detach().clone()
            copied.__dict__.update({key: value for key, value in self.__dict__.items() if key == "_is_param"})
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.owner.place

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """On the device itself nothing is copied, as nowhere."""

        def local(value: Any) -> Any:
            if isinstance(value, torch.device) or (isinstance(value, str) and value):
                return torch.device("meta") if self.owner.means(value) else value
            return value

        return super().to(*map(local, args), **{key: local(value) for key, value in kwargs.items()})

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **facts: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, **{"device": self.device, **facts})

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(self._places(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(self._places(index), value)

    def _places(self, index: Any) -> Any:
        """Lists of places become tensors on the device, as PyTorch makes of them out of anybody's sight."""
        if isinstance(index, tuple):
            return tuple(map(self._places, index))
        return torch.tensor(index, device=self.device) if isinstance(index, list) else index

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")
        self.owner.counts["down"] += 1
        return self.inner.detach().numpy(force=True)

    def tolist(self) -> Any:
        self.owner.counts["sync"] += 1
        return self.inner.tolist()


def _tensors(args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator is given: some of them in lists. (PyTorch's own trees take ten times as long.)"""
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value, {})
    return found


def _each(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """What an operator is given, or gives, with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_each(item, change) for item in value) if type(value) in (list, tuple) else value


def _inner(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, PretendTensor) else tensor


class _Module(ModuleType):
    """What torch.NAME is of a device: how to wait for it, and what autocast asks."""

    def __init__(self, device: PretendDevice) -> None:
        super().__init__("pretend")
        self._device = device

    def synchronize(self, *_: Any) -> None:
        self._device.counts["synchronize"] += 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, _: int) -> None: ...

    def manual_seed(self, _: int) -> None: ...


@contextmanager
def pretend(device: PretendDevice | None = None) -> Iterator[PretendDevice]:
    """A device switched on, with a module torch.NAME of its own; afterwards nothing of it is left.

    Example:
        >>> with pretend() as device:
        ...     there = torch.ones(3, device=device.place)
        ...     there.device == device.place, float(there.sum()), device.counts["sync"]
        (True, 3.0, 1)
    """
    device = device or PretendDevice()
    kind = device.place.type
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, kind, _Module(device), raising=False)
        patch.setitem(sys.modules, f"torch.{kind}", getattr(torch, kind))
        # Autocast of PyTorch 2.8 asks for macOS's version, by a function that is built on Apple's machines alone.
        patch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: True, raising=False)
        torch.get_device_module.cache_clear()  # it remembers the module of the device before
        with device:
            yield device
