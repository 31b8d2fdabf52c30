"""Weights of a neural codec on disk: one uncompressed npz file with the network's configuration inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espnet_ext.errors import UserError
from espnet_ext.storage.checkpoint import check_finite
from espnet_ext.storage.tensor_files import SUFFIX, read_arrays

_CONFIG = "config"  # no name of a weight: those have a dot


def write_weights(checkpoint: Path, state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> None:
    """Write a state dict; equal contents give equal bytes.

    Args:
        checkpoint: file to write, suffix .npz
        state: the network's weights
        config: what the network is built from, in types that JSON knows
    """
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
    if config is not None:
        text = json.dumps(config, sort_keys=True).encode()
        arrays[_CONFIG] = np.frombuffer(text, dtype=np.uint8)
    np.savez(checkpoint, allow_pickle=False, **arrays)


def read_weights(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """A state dict from a file of `write_weights`, an export or a torch file, and the configuration in it.

    Args:
        checkpoint: file; the suffixes .npz and .safetensors tell the kinds apart

    Returns:
        The state dict, and the configuration or None.

    Raises:
        FileNotFoundError: if the file is missing
        UserError: if it cannot be read
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"codec file not found: {checkpoint}")
    try:
        if checkpoint.suffix not in (".npz", SUFFIX):
            return torch.load(checkpoint, map_location="cpu", weights_only=True), None
        arrays = read_arrays(checkpoint, "codec file")
        config = json.loads(arrays.pop(_CONFIG).tobytes()) if _CONFIG in arrays else None
        return {name: torch.from_numpy(array) for name, array in arrays.items()}, config
    except UserError:
        raise
    except Exception as error:  # torch raises a dozen kinds for damaged files, all of them mean the same
        reason = one_line(error)
        raise UserError(f"codec file cannot be read: {checkpoint} ({type(error).__name__}: {reason})") from None


def load_strictly(network: torch.nn.Module, state: Mapping[str, Tensor], kind: str, checkpoint: Path | str) -> None:
    """Put weights into a network; nothing may be missing or left over.

    Args:
        network: gets the weights
        state: state dict
        kind: what the file should be, in words
        checkpoint: the file that the state is from

    Raises:
        UserError: if it is not the state dict of such a network, or a number in it is not finite
    """
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:  # the latter where the file holds no mapping of tensors
        raise UserError(f"codec file must hold the weights of {kind}, got {checkpoint} ({one_line(error)})") from None
    check_finite(state, checkpoint)


def one_line(error: BaseException) -> str:
    """The beginning of an error's message, on one line."""
    return " ".join(str(error).split())[:200]
