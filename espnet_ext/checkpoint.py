"""Weights on disk: written in one piece, read with every key accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_ext.atomic import atomic_path


@contextmanager
def atomic_saves() -> Iterator[None]:
    """While the block runs, `torch.save` to a file either completes or leaves the file as it was.

    ESPnet's trainer writes checkpoints under their final name; a full disk or a kill would leave half of one, and
    the run could not be resumed.

    Yields:
        Nothing.
    """
    save = torch.save

    def save_atomically(content: object, file: Any, *args: Any, **options: Any) -> None:
        if not isinstance(file, str | os.PathLike):
            save(content, file, *args, **options)
            return
        with atomic_path(Path(file)) as temporary:
            try:
                save(content, temporary, *args, **options)
            except RuntimeError as error:  # what torch's zip writer makes of a full disk
                reason = str(error).splitlines()[0]
                raise OSError(f"{file} cannot be written (is the disk full?): {reason}") from None

    torch.save = save_atomically  # type: ignore[assignment]  # ESPnet calls it by this name
    try:
        yield
    finally:
        torch.save = save


def load_strictly(module: nn.Module, checkpoint: Path) -> None:
    """Load weights and insist that every key fits.

    Args:
        module: the model.
        checkpoint: file of its state dict.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or keys or shapes differ; the message names the first.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"model_file not found: {checkpoint} (is the training finished?)")
    try:
        state: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"model_file {checkpoint} cannot be read: {error}") from None
    own = module.state_dict()
    problems = [f"{key} is missing" for key in own.keys() - state.keys()]
    problems += [f"{key} is unknown" for key in state.keys() - own.keys()]
    problems += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if problems:
        raise ValueError(
            f"model_file {checkpoint} must fit its config.yaml: {sorted(problems)[0]} ({len(problems)} such)"
        )
    module.load_state_dict(state)
