"""Kernels compiled on the machine they run on: written as loops over vectors, made by LLVM, run on PyTorch's threads.

PyTorch has no operation that does what lies around a depthwise convolution in one pass over memory, and a compiler is
nothing to ask of a user. llvmlite brings LLVM with it and takes 30 ms for a kernel. PyTorch's own
threads run them, because a second pool would fight the first for the processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from phosphene.files import keep_cached, read_cached

LANES = 16
"""Floats side by side: one register of AVX-512."""

LINE = 64
"""Bytes of a vector of float32, and of a line of the cache."""


@cache
def parallel() -> Any:
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
    parallel()(address, arguments.ctypes.data, threads, 0)


def _operation(name: str) -> Callable[[Number, Any], Number]:
    def run(self: Number, other: Any) -> Number:
        value = other.value if isinstance(other, Number) else self.value.type(other)
        return Number(self.b, getattr(self.b, name)(self.value, value))

    return run


class Number:
    """A 64-bit number of a kernel, or an address in bytes: it is reckoned with as with Python's own."""

    def __init__(self, b: Any, value: Any) -> None:
        self.b, self.value = b, value

    __add__ = __radd__ = _operation("add")
    __mul__ = __rmul__ = _operation("mul")
    __sub__, __floordiv__, __mod__ = _operation("sub"), _operation("sdiv"), _operation("srem")


class Writer:
    """Writes one kernel: a function of an array of 64-bit arguments, called once by each thread.

    Vectors are LLVM's values.

    The arguments as they were at the start are attributes of `a`.

    Args:
        arguments: names of the arguments, in their order.
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
        self.zeros = ir.Constant(self.floats, [0.0] * LANES)
        self.a = SimpleNamespace(**{name: Number(self.b, self.b.load(self._place(name))) for name in self._names})

    def text(self) -> str:
        """The kernel in LLVM's language, once all is written."""
        self.b.ret_void()
        return str(self.module)

    def each(self, counter: str, stop: Number, body: Callable[[Number], None]) -> None:
        """The body for each number up to `stop` that a counter gives, which all threads share."""
        more, inside, end = (self._function.append_basic_block() for _ in range(3))
        self.b.branch(more)
        self.b.position_at_end(more)
        index = self.take(counter)
        self.b.cbranch(self.b.icmp_signed("<", index.value, stop.value), inside, end)
        self.b.position_at_end(inside)
        body(index)
        self.b.branch(more)
        self.b.position_at_end(end)

    def value(self, number: Number | int) -> Any:
        """LLVM's value of a number."""
        return number.value if isinstance(number, Number) else self.i64(number)

    def _place(self, name: str) -> Any:
        return self.b.gep(self._arguments, [self.i64(self._names.index(name))])

    def take(self, name: str) -> Number:
        """The value of an argument, which becomes one more for whoever asks next."""
        return Number(self.b, self.b.atomic_rmw("add", self._place(name), self.i64(1), "monotonic"))

    def fold(
        self, start: Number | int, stop: Number, values: list[Any], body: Callable[[Number, list[Any]], list[Any]]
    ) -> list[Any]:
        """What the body makes of the values, for each number from `start` up to `stop` one after the other."""
        b, before, begin = self.b, self.b.block, [self.value(start), *values]
        head, inside, after = (self._function.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        phis = [b.phi(value.type) for value in begin]
        for phi, value in zip(phis, begin, strict=True):
            phi.add_incoming(value, before)
        index, *found = phis
        b.cbranch(b.icmp_signed("<", index, stop.value), inside, after)
        b.position_at_end(inside)
        following = body(Number(b, index), found)
        for phi, value in zip(phis, (b.add(index, self.i64(1)), *following), strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return found

    def loop(self, start: Number | int, stop: Number, body: Callable[[Number], None]) -> None:
        """The body for each number from `start` up to `stop`."""

        def alone(index: Number, _: list[Any]) -> list[Any]:
            body(index)
            return []

        self.fold(start, stop, [], alone)

    def larger(self, a: Number, other: Number | int, sign: str = ">") -> Number:
        b, one, two = self.b, a.value, self.value(other)
        return Number(b, b.select(b.icmp_signed(sign, one, two), one, two))

    def smaller(self, a: Number, other: Number) -> Number:
        return self.larger(a, other, "<")

    def load(self, address: Number, kind: Any = None) -> Any:
        kind = kind or self.floats
        value = self.b.load(self.b.inttoptr(address.value, kind.as_pointer()))
        value.align = 8 if kind is self.i64 else 2 if kind in (self.i16, self.shorts) else 4
        return value

    def store(self, value: Any, address: Number, lanes: int = LANES) -> None:
        """Write a value; of a vector no more than the first few lanes if so asked."""
        if lanes < LANES:
            several = self.ir.Constant(self.ir.VectorType(self.i32, lanes), list(range(lanes)))
            value = self.b.shuffle_vector(value, value, several)
        stored = self.b.store(value, self.b.inttoptr(address.value, value.type.as_pointer()))
        stored.align = 2 if value.type in (self.i16, self.shorts) else 4

    def expect(self, address: Number, *, written: bool = False) -> None:
        """Have a line of memory fetched: far strides are nothing the processor foresees by itself."""
        pointer = self.b.inttoptr(address.value, self.ir.IntType(8).as_pointer())
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

    def products(self, rows: list[Number], columns: Number, registers: int, channels: Number) -> list[Any]:
        """Sums over the channels in their order, `registers` of each row, row by row.

        Args:
            rows: addresses of floats, a channel behind the other.
            columns: address of vectors, `registers` of them for each channel.
            registers: vectors side by side.
            channels: how many.
        """

        def channel(index: Number, sums: list[Any]) -> list[Any]:
            vectors = columns + index * (registers * LINE)
            weights = [self.load(vectors + n * LINE) for n in range(registers)]
            values = [self.everywhere(self.load(row + index * 4, self.f32)) for row in rows]
            pairs = ((value, weight) for value in values for weight in weights)
            return [self.fma(value, weight, total) for (value, weight), total in zip(pairs, sums, strict=True)]

        return self.fold(0, channels, [self.zeros] * (len(rows) * registers), channel)

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

    def limits(self, address: Number) -> tuple[Any, Any]:
        """Vectors of the lowest and the highest value, two floats one behind the other."""
        low, high = (self.load(address + n, self.f32) for n in (0, 4))
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


_KEPT: list[Any] = []  # the code lives as long as its engine
_LOCK = threading.Lock()


@cache
def source_of(file: str) -> str:
    """A digest of a file of code: kernels that it wrote otherwise are others."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def compiled(name: str, text: Callable[[], str]) -> int:
    """The address of a kernel, ready to run on this processor.

    It is compiled once for a kind of processor, and then kept in the user's cache.

    Args:
        name: tells it from all other kernels.
        text: writes it in LLVM's language, if it is not kept.
    """
    from llvmlite import binding as llvm

    with _LOCK:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        kind = {"cpu": llvm.get_host_cpu_name(), "features": llvm.get_host_cpu_features().flatten()}
        # What the writer does not do already, the last step does: the passes before it would only take twice the time.
        machine = llvm.Target.from_default_triple().create_target_machine(**kind, opt=2, jit=True)
        key = hashlib.sha256(f"{name} {source_of(__file__)} {kind} {llvm.llvm_version_info}".encode()).hexdigest()
        code = read_cached(f"kernels/{key[:24]}")
        if code is None:
            code = machine.emit_object(llvm.parse_assembly(text()))
            keep_cached(f"kernels/{key[:24]}", code)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _KEPT.append(engine)
        return int(engine.get_function_address("kernel"))
