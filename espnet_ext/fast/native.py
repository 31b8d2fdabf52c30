"""The optional native kernel: whole transformer steps on a CPU, compiled at first use from `native.cpp`.

Nothing is compiled unless somebody asks for it. Tensors are handed over as addresses, so they must be contiguous and
float32; `NativeStack` and `NativeLinear` keep alive what they pass on.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from espnet_ext.errors import UserError
from espnet_ext.fast.fallback import can_read
from espnet_ext.fast.linear import LinearBackend, linear_backends, rows_as_int8
from espnet_ext.model.cache import KVCache
from espnet_ext.model.transformer import Block, BlockInputs, Transformer
from espnet_ext.storage.own_cache import is_own, own_cache

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
)
GROUP, CHUNK = 4, 16  # as in native.cpp
FORMATS = {"float32": 0, "bf16": 1, "int8": 2}
READS = (torch.float32, torch.bfloat16)  # keys and values

Address = ctypes.c_void_p


class _Linear(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        ("weight", Address), ("scale", Address), ("bias", Address),
        ("out", ctypes.c_int32), ("in", ctypes.c_int32), ("format", ctypes.c_int32),
    ]  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        ("attention_norm", Address), ("attention_norm_bias", Address),
        ("feed_forward_norm", Address), ("feed_forward_norm_bias", Address),
        ("qkv", _Linear), ("attention_out", _Linear), ("up", _Linear), ("down", _Linear),
    ]  # fmt: skip


class _Step(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        ("rows", ctypes.c_int32), ("width", ctypes.c_int32), ("heads", ctypes.c_int32), ("inner", ctypes.c_int32),
        ("length", ctypes.c_int32), ("capacity", ctypes.c_int32), ("exact_gelu", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("cache_row", ctypes.c_int64), ("mask", Address), ("rotation", Address),
        ("rotation_rows", ctypes.c_int32), ("half_cache", ctypes.c_int32), ("scratch", Address),
    ]  # fmt: skip


class NativeUnavailable(RuntimeError):
    """There is no compiler, or it failed; the message says what it said."""


def compiler() -> str | None:
    """Path of the C++ compiler: that of the environment variable CXX, or g++, or clang++."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


@functools.lru_cache(maxsize=1)
def library() -> Any:
    """The compiled kernel, from the user's cache or compiled now.

    Returns:
        The library.

    Raises:
        NativeUnavailable: if it cannot be compiled.
    """
    path = compiler()
    if path is None:
        raise NativeUnavailable("a C++ compiler must be on the PATH, or named by CXX: found none")
    try:
        cache = own_cache()
    except (UserError, OSError) as error:
        raise NativeUnavailable(str(error)) from None
    threads = ("-fopenmp",) if platform.system() == "Linux" else ()
    # what the machine is decides what -march=native means
    machine = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0] if platform.system() == "Linux" else ""
    model = [line for line in machine.splitlines() if line.startswith(("model name", "flags", "Features"))]
    text = "\n".join((SOURCE.read_text(encoding="utf-8"), *FLAGS, *threads, path, platform.platform(), *model))
    binary = cache / f"native-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    if not is_own(binary):
        temporary = binary.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        command = [path, *FLAGS, *threads, str(SOURCE), "-o", str(temporary)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NativeUnavailable(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
        temporary.chmod(0o700)
        temporary.replace(binary)
    loaded = ctypes.CDLL(str(binary))
    loaded.sizes.restype = ctypes.c_int64
    for number, kind in enumerate((_Linear, _Layer, _Step)):
        assert loaded.sizes(number) == ctypes.sizeof(kind), f"{kind.__name__} differs between native.py and native.cpp"
    return loaded


def _packed(weight: Tensor) -> Tensor:
    """Weights (out, in) as the kernel reads them: (out / 4, in / 16, 4, 16), out padded with zeros."""
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -weight.shape[0] % (2 * GROUP)))
    return padded.view(-1, GROUP, weight.shape[1] // CHUNK, CHUNK).transpose(1, 2).contiguous()


_of_thread = threading.local()  # calls of other threads run at the same time: ctypes lets go of the interpreter's lock


def _scratch(size: int) -> Tensor:
    """At least so many floats that nobody but this thread's calls write to; kept, for a call takes microseconds."""
    scratch: Tensor | None = getattr(_of_thread, "scratch", None)
    if scratch is None or scratch.numel() < size:
        scratch = _of_thread.scratch = torch.empty(size)
    return scratch


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class NativeLinear(LinearBackend):
    """The kernel's product alone."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        if self.in_features % CHUNK:
            raise UserError(f"native must be false for maps of no multiple of {CHUNK} inputs, got {self.in_features}")
        self._scale: Tensor | None = None
        weight = weight.detach()
        if self.precision == "bf16":
            weight = weight.to(torch.bfloat16)
        elif self.precision == "int8":
            weight, self._scale = rows_as_int8(weight)
        self._weight = _packed(weight)
        self._bias = None if bias is None else bias.detach().contiguous()
        self.struct = _Linear(
            _address(self._weight), _address(self._scale), _address(self._bias), self.out_features, self.in_features,
            FORMATS[self.precision],
        )  # fmt: skip
        self._library = library()

    @classmethod
    def is_available(cls) -> bool:  # noqa: D102 (inherited)
        return compiler() is not None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 (inherited)
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features)
        rows = x.numel() // self.in_features
        self._library.apply_linear(
            ctypes.byref(self.struct), rows, Address(x.data_ptr()), Address(out.data_ptr()), torch.get_num_threads()
        )
        return out


@linear_backends.register("native_float32")
class NativeFloat32(NativeLinear):
    """Float32 weights."""

    precision = "float32"


@linear_backends.register("native_bf16")
class NativeBF16(NativeLinear):
    """Bfloat16 weights, float32 activations and sums."""

    precision = "bf16"


@linear_backends.register("native_int8")
class NativeInt8(NativeLinear):
    """Int8 weights with one scale per output, activations of 16 bits with one scale per row, exact sums."""

    precision = "int8"


class NativeStack:
    """What a transformer's blocks do, single positions in one native call; its linear maps must be `NativeLinear`.

    One with cross-attention takes two calls per layer, with the cross-attention of the transformer itself in between.

    Args:
        transformer: whose `run` it is to be.

    Attributes:
        cache_dtype: of its keys and values, bfloat16 where weights are rounded as well: behind many frames a step reads
            as much of them as of weights.
    """

    def __init__(self, transformer: Transformer) -> None:
        self._library, self._transformer = library(), transformer
        self.blocks = [block for block in transformer.blocks if isinstance(block, Block)]
        self.width, self.heads = transformer.width, transformer.heads
        first = self.blocks[0].feed_forward
        self.exact_gelu, self.inner = int(first.approximate == "none"), 4 * self.width
        self._layers = (_Layer * len(self.blocks))(*(_layer(block) for block in self.blocks))
        rounded = any(isinstance(part, NativeLinear) and part.precision != "float32" for part in transformer.modules())
        self.cache_dtype = torch.bfloat16 if rounded else torch.float32

    def __call__(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """The arguments are those of `Transformer.run`."""
        cache, memory, bias = inputs.cache, inputs.memory, inputs.bias
        if cache is None or x.shape[1] != 1 or not can_read("native", cache, READS):
            return Transformer.run(self._transformer, x, inputs)
        x = x.clone()
        step, here, native = self._step(x, inputs.mask, inputs.rotation, cache), Address(x.data_ptr()), self._library
        if memory is None or bias is None:
            native.run_layers(
                ctypes.byref(step), self._layers, len(self.blocks), here, Address(cache.keys.data_ptr()),
                Address(cache.values.data_ptr()), ctypes.c_int64(cache.keys.stride(0)),
            )  # fmt: skip
        else:
            for layer, block in enumerate(self.blocks):
                weights, keys, values = ctypes.byref(self._layers[layer]), cache.keys[layer], cache.values[layer]
                native.run_attention(
                    ctypes.byref(step), weights, here, Address(keys.data_ptr()), Address(values.data_ptr())
                )
                if block.cross is not None and block.cross_norm is not None:
                    x += block.cross(block.cross_norm(x), memory.keys[layer], memory.values[layer], bias, inputs.scores)
                native.run_feed_forward(ctypes.byref(step), weights, here)
        cache.advance(1)
        return x

    def _step(self, x: Tensor, mask: Tensor | None, rotation: Tensor | None, cache: KVCache) -> _Step:
        """What every call of this step is given; it keeps what it borrows as an attribute."""
        rows = len(x)
        cache.check_room(1)
        needed = rows * (4 * self.width + self.inner) + max(cache.capacity, self.width)
        turn = None if rotation is None else rotation.reshape(2, -1, rotation.shape[-1]).transpose(0, 1).contiguous()
        step = _Step(
            rows, self.width, self.heads, self.inner, cache.length, cache.capacity, self.exact_gelu,
            torch.get_num_threads(), cache.keys.stride(1), None if mask is None else cache.key_mask.data_ptr(),
            _address(turn), 0 if turn is None else len(turn), int(cache.keys.dtype == torch.bfloat16),
            _scratch(needed).data_ptr(),
        )  # fmt: skip
        step.borrowed = (turn, cache)
        return step


def _layer(block: Block) -> _Layer:
    maps = (block.attention.qkv, block.attention.out, block.feed_forward.up, block.feed_forward.down)
    norms = (block.attention_norm, block.feed_forward_norm)
    structs = [part.struct for part in maps if part is not None and isinstance(part, NativeLinear)]
    if len(structs) != len(maps):
        raise UserError("native must be false for a model whose linear maps are not all packed for it, got true")
    return _Layer(*(_address(part) for norm in norms for part in (norm.weight, norm.bias)), *structs)
