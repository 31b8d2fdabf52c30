"""Linear maps with weights packed for decoding: the registry of backends, and the plain one that is their oracle."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_ext.defaults import PRECISION_CHOICES, PRECISIONS
from espnet_ext.errors import UserError
from espnet_ext.options import check_choice
from espnet_ext.registry import Registry

WEIGHT_BYTES = {"float32": 4, "fp16": 2, "bf16": 2, "int8": 1}


class LinearBackend(nn.Module, ABC):
    """x W^T + b in float32, with the weights in some form.

    Args:
        weight: (out, in) float32.
        bias: (out,) float32, or None.

    Attributes:
        precision: one of `PRECISIONS`.
    """

    precision: ClassVar[str]

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape

    @property
    def weight_bytes(self) -> int:
        """What a product reads of the weights."""
        return self.out_features * self.in_features * WEIGHT_BYTES[self.precision]

    @classmethod
    def is_available(cls) -> bool:
        """Whether this torch and this processor run it fast."""
        return True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(…, in) float32 → (…, out) float32."""


linear_backends: Registry[type[LinearBackend]] = Registry("linear")


@linear_backends.register("row_major")
class RowMajor(LinearBackend):
    """What `torch.nn.Linear` does."""

    precision = "float32"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 (inherited)
        return F.linear(x, self.weight, self.bias)  # type: ignore[arg-type]


@linear_backends.register("column_major")
class ColumnMajor(RowMajor):
    """The same with the columns of the weights in memory one after the other, for which another routine is chosen."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.detach().t().contiguous().t(), bias)


@linear_backends.register("onednn")
class OneDNN(LinearBackend):
    """oneDNN's product with weights that were reordered once."""

    precision = "float32"
    dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._ops: Any = torch.ops.mkldnn
        self._packed = self._ops._reorder_linear_weight(weight.detach().to(self.dtype).contiguous(), 1)
        self._bias = None if bias is None else bias.detach().to(self.dtype)

    @classmethod
    def is_available(cls) -> bool:  # noqa: D102 (inherited)
        return bool(torch.backends.mkldnn.is_available())

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 (inherited)
        out: Tensor = self._ops._linear_pointwise(x.to(self.dtype), self._packed, self._bias, "none", [], "")
        return out.float()


@linear_backends.register("onednn_bf16")
class OneDNNBF16(OneDNN):
    """oneDNN's product in bfloat16, for processors that have it."""

    precision = "bf16"
    dtype = torch.bfloat16

    @classmethod
    def is_available(cls) -> bool:  # noqa: D102 (inherited)
        capabilities: Any = torch.backends.cpu.get_cpu_capability()
        return super().is_available() and "AVX512" in capabilities


class FBGEMM(LinearBackend):
    """A product of the FBGEMM library, which torch has for x86."""

    @classmethod
    def is_available(cls) -> bool:  # noqa: D102 (inherited)
        return "fbgemm" in torch.backends.quantized.supported_engines


@linear_backends.register("fbgemm_fp16")
class FBGEMMFP16(FBGEMM):
    """Float16 weights, float32 activations and sums."""

    precision = "fp16"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        largest = float(weight.detach().abs().max())
        if largest > torch.finfo(torch.float16).max:
            raise UserError(f"precision must be float32 for weights beyond float16's range, got fp16 and {largest}")
        self._ops: Any = torch.ops.quantized
        bias = torch.zeros(self.out_features) if bias is None else bias.detach()
        self._packed = self._ops.linear_prepack_fp16(weight.detach().contiguous(), bias)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 (inherited)
        out: Tensor = self._ops.linear_dynamic_fp16(x, self._packed)
        return out


def rows_as_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Every row rounded to int8, symmetric: (out, in) int8 and the scale of each row, (out,) float32."""
    weight = weight.detach().contiguous()
    scale = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight / scale[:, None]).round().to(torch.int8), scale


@linear_backends.register("fbgemm_int8")
class FBGEMMInt8(FBGEMM):
    """Int8 weights, one scale per row; activations are rounded to 7 bits, call by call."""

    precision = "int8"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._ops: Any = torch.ops.quantized
        _, scale = rows_as_int8(weight)
        with warnings.catch_warnings():  # quantized tensors are to leave torch some day; this is their only use
            warnings.simplefilter("ignore", UserWarning)
            zero = torch.zeros(self.out_features, dtype=torch.int64)
            rows = torch.quantize_per_channel(weight.detach().contiguous(), scale.double(), zero, 0, torch.qint8)
            self._packed = self._ops.linear_prepack(rows, None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 (inherited)
        # 7 bits: pairs of products are added in 16 bits on processors without VNNI
        out: Tensor = self._ops.linear_dynamic(x, self._packed, reduce_range=True)
        return out


@linear_backends.register("int8_weight_only")
class Int8WeightOnly(LinearBackend):
    """Int8 weights, one scale per row; activations stay as they are."""

    precision = "int8"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._weight, self._scale = rows_as_int8(weight)
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 (inherited)
        rows = x.reshape(-1, self.in_features)
        out: Tensor = torch._weight_int8pack_mm(rows, self._weight, self._scale)
        out = out if self._bias is None else out + self._bias
        return out.view(*x.shape[:-1], self.out_features)


def backends_of(precision: str, native: bool = False) -> list[str]:
    """Names of the backends of a precision that this machine runs; "auto" stands for all precisions.

    Args:
        precision: one of `PRECISIONS`, or "auto".
        native: only those of the native kernel, or only the others.

    Returns:
        The names.

    Raises:
        UserError: if the precision is unknown, or nothing runs it here.
    """
    check_choice("precision", precision, PRECISION_CHOICES)
    here = [name for name in linear_backends if name.startswith("native") == native]
    here = [name for name in here if linear_backends[name].is_available()]
    names = [name for name in here if precision in ("auto", linear_backends[name].precision)]
    if not names:
        possible = [one for one in PRECISIONS if one in {linear_backends[name].precision for name in here}]
        raise UserError(
            f"precision must be one of {possible} on this processor{' with native' * native}, got {precision!r}"
        )
    return names
