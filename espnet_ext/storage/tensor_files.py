"""Weights without code: safetensors, the format to share, whose content is vouched for in the file, and numpy's npz."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.defaults import DTYPES
from espnet_ext.errors import UserError
from espnet_ext.options import check_choice

SUFFIX = ".safetensors"
ROW_SCALE = ".row_scale"  # behind the name of a matrix of int8: what its rows are multiplied with
SMALL = 4096  # numbers, below which a tensor stays as it is
_CONTENTS = "contents"  # name of the checksum in the metadata
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_KINDS = (*_FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def _contents(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Any], origin: Path) -> None:
    """Write tensors as safetensors, with a checksum of them; equal contents give equal bytes.

    Args:
        path: file to write.
        tensors: name → tensor or array; tied ones are written once for each name, as the format wants it.
        origin: file that they are from, for errors.

    Raises:
        UserError: if there is something that is neither, or numbers of an unusual kind.
    """
    from safetensors.torch import save_file

    whole = {}
    for name, value in tensors.items():
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" else value
        if not isinstance(tensor, Tensor) or tensor.dtype not in _KINDS:
            raise UserError(f"{origin} must hold tensors of {_names()} to be exported, got {_kind(value)} in {name!a}")
        whole[name] = tensor.detach().cpu().contiguous().clone()
    save_file(whole, path, metadata={_CONTENTS: _contents(whole)})  # several would come in any order


def _scale_shape(matrix: Tensor) -> tuple[int, ...]:
    """A number for each row: the first dimension, of convolutions too."""
    return (*matrix.shape[:1], *(1 for _ in matrix.shape[1:]))


def _stays(value: Any) -> bool:
    """Whether it is too small, or of a kind that is not rounded."""
    return not isinstance(value, Tensor) or value.dtype != torch.float32 or value.numel() < SMALL


def in_fewer_bytes(tensors: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The same tensors with float32 matrices rounded; `read_tensors` gives them back as floating numbers.

    Args:
        tensors: name → tensor.
        dtype: one of `DTYPES`; int8 has a scale for each row.

    Returns:
        Name → tensor.

    Raises:
        UserError: if there is no such kind.
    """
    check_choice("dtype", dtype, DTYPES)
    stored: dict[str, Any] = {}
    for name, value in tensors.items():
        if dtype == "float32" or _stays(value):
            stored[name] = value
        elif dtype == "float16" or value.ndim < 2:
            stored[name] = value.half() if value.abs().max() < torch.finfo(torch.float16).max else value
        else:
            scale = value.abs().amax(tuple(range(1, value.ndim)), keepdim=True).clamp_min(1e-12) / 127
            stored[name], stored[name + ROW_SCALE] = (value / scale).round().to(torch.int8), scale
    return stored


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: the file.
        what: it is, in the words of the user's option.

    Returns:
        Name → tensor, on the CPU; matrices of int8 with a scale for each row as floating numbers.

    Raises:
        UserError: if it cannot be read, or is not what its own checksum vouches for; files of others have none.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            vouched = (file.metadata() or {}).get(_CONTENTS)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except Exception as error:  # what is wrong with the file, or with a type that torch does not have
        reason = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise UserError(f"{what} {path} cannot be read: {type(error).__name__} {reason}") from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _KINDS:
            raise UserError(f"{what} {path} must hold tensors of {_names()}, got {tensor.dtype} in {name!a}")
    if vouched is not None and vouched != _contents(tensors):
        raise UserError(f"{what} {path} must hold what its checksum vouches for: it is damaged, get it again")
    for name in [name for name in tensors if name.endswith(ROW_SCALE)]:
        scale, of = tensors.pop(name), name.removesuffix(ROW_SCALE)
        matrix = tensors.get(of)
        if matrix is None or matrix.dtype != torch.int8 or scale.shape != _scale_shape(matrix):
            raise UserError(f"{what} {path} must hold a matrix of int8 for each of its scales, got {name!a} without")
        tensors[of] = matrix * scale
    return tensors


def read_arrays(path: Path, what: str) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file, or of one that was exported as safetensors.

    Args:
        path: the file; its suffix tells the kinds apart.
        what: it is, in the words of the user's option.

    Returns:
        Name → array.

    Raises:
        UserError: if it cannot be read.
    """
    if path.suffix == SUFFIX:
        tensors = read_tensors(path, what)
        return {name: tensor.clone().numpy() for name, tensor in tensors.items()}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy raises a dozen kinds for damaged files, all of them mean the same
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} cannot be read: {path} ({type(error).__name__}: {reason})") from None


def _names() -> str:
    return ", ".join(str(kind).removeprefix("torch.") for kind in _KINDS)


def _kind(value: object) -> object:
    return getattr(value, "dtype", type(value).__name__)
