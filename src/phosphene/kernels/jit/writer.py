"""Kernels compiled on the machine they run on: written as loops over vectors, made by LLVM, run on PyTorch's threads.

PyTorch has no operation that does what lies around a depthwise convolution in one pass over memory, and a compiler is
nothing to ask of a user. llvmlite brings LLVM with it and takes 30 ms for a kernel. PyTorch's own
threads run them, because a second pool would fight the first for the processor.
"""

from __future__ import annotations

import ctypes
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

LANES = 16
"""Floats side by side: one register of AVX-512."""

LINE = 64
"""Bytes of a vector of float32, and of a line of the cache."""


@cache
def available() -> bool:
    """Whether kernels can be made and run here: llvmlite, AVX-512, and a PyTorch whose threads can be asked to help.

    Without AVX-512 nothing is measured, so nothing is claimed: the network then runs on PyTorch's operations alone.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or _parallel() is None:
        return False
    try:
        return compiled(_Nothing(["turn", "items"]).text("items")) != 0
    except (ImportError, OSError, RuntimeError):  # llvmlite is missing or broken, or new code may not run here
        return False


@cache
def _parallel() -> Any:
    """PyTorch's way to start its threads, found by way of the library that uses it; None where it has another one."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        start = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    start.argtypes, start.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return start


def run(address: int, arguments: np.ndarray[Any, np.dtype[np.int64]], threads: int) -> None:
    """Run a kernel on no more than so many threads; its arguments are 64 bits each, as `Writer` reads them."""
    _parallel()(address, arguments.ctypes.data, threads, 0)


class Writer(ABC):
    """Writes one kernel: a function of an array of 64-bit arguments, called once by each thread.

    Numbers, addresses and vectors are LLVM's values; addresses are plain integers, in bytes. A kernel takes its items
    one by one from a counter that all threads share, so it does not matter how many there are.

    The arguments as they were at the start are attributes of `a`.

    Args:
        arguments: names of the arguments, in their order; the first is the counter of the items that were taken.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        from llvmlite import ir

        self.ir, self._names = ir, list(arguments)
        self.i64, self.i32, self.i16, self.f32 = ir.IntType(64), ir.IntType(32), ir.IntType(16), ir.FloatType()
        self.floats, self.shorts = ir.VectorType(self.f32, LANES), ir.VectorType(self.i16, LANES)
        self._words, self._flags = ir.VectorType(self.i32, LANES), ir.VectorType(ir.IntType(1), LANES)
        self.module = ir.Module()
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [self.i64.as_pointer()]), "kernel")
        self._function, self._arguments = function, function.args[0]
        self.b = ir.IRBuilder(function.append_basic_block())
        self._fma = ir.Function(self.module, ir.FunctionType(self.floats, [self.floats] * 3), "llvm.fma.v16f32")
        byte = ir.IntType(8).as_pointer()
        self._prefetch = ir.Function(
            self.module, ir.FunctionType(ir.VoidType(), [byte, self.i32, self.i32, self.i32]), "llvm.prefetch.p0"
        )
        self.zero, self.one = self.number(0), self.number(1)
        self.zeros = ir.Constant(self.floats, [0.0] * LANES)
        self.a = SimpleNamespace(**{name: self.b.load(self._place(name)) for name in self._names})

    @abstractmethod
    def item(self, index: Any) -> None:
        """Write what is done for one item."""

    def text(self, items: str) -> str:
        """The whole kernel in LLVM's language; `items` names the argument that counts them."""
        b = self.b
        more, inside, end = (self._function.append_basic_block() for _ in range(3))
        self.prepare()
        b.branch(more)
        b.position_at_end(more)
        index = self.take(self._names[0])
        b.cbranch(b.icmp_signed("<", index, getattr(self.a, items)), inside, end)
        b.position_at_end(end)
        b.ret_void()
        b.position_at_end(inside)
        self.item(index)
        b.branch(more)
        return str(self.module)

    def prepare(self) -> None:  # noqa: B027 (most kernels need nothing)
        """Write what is done once by each thread."""

    def number(self, value: int) -> Any:
        return self.ir.Constant(self.i64, value)

    def _place(self, name: str) -> Any:
        return self.b.gep(self._arguments, [self.number(self._names.index(name))])

    def take(self, name: str) -> Any:
        """The value of an argument, which becomes one more for whoever asks next."""
        return self.b.atomic_rmw("add", self._place(name), self.one, "monotonic")

    def fold(self, start: Any, stop: Any, values: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """What the body makes of the values, for each number from `start` up to `stop` one after the other."""
        b, before = self.b, self.b.block
        head, inside, after = (self._function.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        index, *found = (b.phi(value.type) for value in (start, *values))
        for phi, value in zip((index, *found), (start, *values), strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", index, stop), inside, after)
        b.position_at_end(inside)
        following = body(index, found)
        for phi, value in zip((index, *found), (b.add(index, self.one), *following), strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return found

    def loop(self, start: Any, stop: Any, body: Callable[[Any], None]) -> None:
        """The body for each number from `start` up to `stop`."""

        def alone(index: Any, _nothing: list[Any]) -> list[Any]:
            body(index)
            return []

        self.fold(start, stop, [], alone)

    def sum(self, first: Any, *others: Any) -> Any:
        for other in others:
            first = self.b.add(first, other)
        return first

    def product(self, first: Any, *others: Any) -> Any:
        for other in others:
            first = self.b.mul(first, self.number(other) if isinstance(other, int) else other)
        return first

    def larger(self, a: Any, b: Any) -> Any:
        return self.b.select(self.b.icmp_signed(">", a, b), a, b)

    def smaller(self, a: Any, b: Any) -> Any:
        return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def load(self, address: Any, kind: Any = None) -> Any:
        kind = kind or self.floats
        value = self.b.load(self.b.inttoptr(address, kind.as_pointer()))
        value.align = 8 if kind is self.i64 else 2 if kind in (self.i16, self.shorts) else 4
        return value

    def store(self, value: Any, address: Any, lanes: int = LANES) -> None:
        """Write a value; of a vector no more than the first few lanes if so asked."""
        if lanes < LANES:
            several = self.ir.Constant(self.ir.VectorType(self.i32, lanes), list(range(lanes)))
            value = self.b.shuffle_vector(value, value, several)
        stored = self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()))
        stored.align = 2 if value.type in (self.i16, self.shorts) else 4

    def expect(self, address: Any, *, written: bool = False) -> None:
        """Have a line of memory fetched: far strides are nothing the processor foresees by itself."""
        pointer = self.b.inttoptr(address, self.ir.IntType(8).as_pointer())
        near, data = self.ir.Constant(self.i32, 3), self.ir.Constant(self.i32, 1)
        self.b.call(self._prefetch, [pointer, self.ir.Constant(self.i32, int(written)), near, data])

    def everywhere(self, value: Any) -> Any:
        """A vector of one float."""
        undefined = self.ir.Constant(self.floats, self.ir.Undefined)
        single = self.b.insert_element(undefined, value, self.ir.Constant(self.i32, 0))
        return self.b.shuffle_vector(single, undefined, self.ir.Constant(self._words, [0] * LANES))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """A * b + c, rounded once."""
        return self.b.call(self._fma, [a, b, c])

    def products(self, rows: list[Any], columns: Any, registers: int, start: Any, stop: Any) -> list[Any]:
        """Sums over the channels from `start` up to `stop`, in their order: `registers` of each row, row by row.

        Args:
            rows: addresses of floats, a channel behind the other.
            columns: address of vectors, `registers` of them for each channel.
            registers: vectors side by side.
            start: first channel.
            stop: the one behind the last.
        """

        def channel(index: Any, sums: list[Any]) -> list[Any]:
            vectors = self.sum(columns, self.product(index, registers * LINE))
            weights = [self.load(self.sum(vectors, self.number(n * LINE))) for n in range(registers)]
            values = [self.everywhere(self.load(self.sum(row, self.product(index, 4)), self.f32)) for row in rows]
            pairs = ((value, weight) for value in values for weight in weights)
            return [self.fma(value, weight, total) for (value, weight), total in zip(pairs, sums, strict=True)]

        return self.fold(start, stop, [self.zeros] * (len(rows) * registers), channel)

    def widened(self, halves: Any) -> Any:
        """float32 of bfloat16, which is its upper half."""
        words = self.b.shl(self.b.zext(halves, self._words), self.ir.Constant(self._words, [16] * LANES))
        return self.b.bitcast(words, self.floats)

    def halved(self, values: Any) -> Any:
        """bfloat16 of float32, to the nearest, to the even one of two."""
        b, words = self.b, self.b.bitcast(values, self._words)
        sixteen, almost, last = (self.ir.Constant(self._words, [n] * LANES) for n in (16, 0x7FFF, 1))
        rounded = b.add(words, b.add(almost, b.and_(b.lshr(words, sixteen), last)))
        return b.trunc(b.lshr(rounded, sixteen), self.shorts)

    def limits(self, address: Any) -> tuple[Any, Any]:
        """Vectors of the lowest and the highest value, two floats one behind the other."""
        low, high = (self.load(self.sum(address, self.number(n)), self.f32) for n in (0, 4))
        return self.everywhere(low), self.everywhere(high)

    def cut(self, values: Any, low: Any, high: Any) -> Any:
        """Values within [low, high]; what is no number stays none."""
        b = self.b
        values = b.select(b.fcmp_ordered("<", values, low), low, values)
        return b.select(b.fcmp_ordered(">", values, high), high, values)

    def let_through(self, values: Any, low: Any, high: Any) -> Any:
        """16 bits: which values a gradient passes, those that were not cut."""
        b = self.b
        shut = b.or_(b.fcmp_ordered("<=", values, low), b.fcmp_ordered(">=", values, high))
        return b.bitcast(b.not_(shut), self.i16)

    def where(self, bits: Any, values: Any) -> Any:
        """The values whose bit is set, zero for the others."""
        return self.b.select(self.b.bitcast(bits, self._flags), values, self.zeros)


class _Nothing(Writer):
    """The least kernel, to see whether there can be any."""

    def item(self, index: Any) -> None:
        pass


_KEPT: list[Any] = []  # the code lives as long as its engine
_LOCK = threading.Lock()


def compiled(text: str) -> int:
    """The address of a kernel, ready to run on this processor."""
    from llvmlite import binding as llvm

    with _LOCK:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        # What the writer does not do already, the last step does: the passes before it would only take twice the time.
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2, jit=True
        )
        module = llvm.parse_assembly(text)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        _KEPT.append(engine)
        return int(engine.get_function_address("kernel"))
