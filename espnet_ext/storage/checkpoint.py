"""Weights on disk: written in one piece, read with every key accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path


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


def read_weights(checkpoint: Path, name: str = "model_file", weights_only: bool = True) -> dict[str, Any]:
    """What a file written by `torch.save` holds.

    Args:
        checkpoint: the file.
        name: what the file is, in the words of the user's option.
        weights_only: refuse everything but tensors; a trainer's own checkpoint holds more.

    Returns:
        The content.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it cannot be read or holds no mapping.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{name} not found: {checkpoint} (is the training finished?)")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=weights_only)
    except Exception as error:  # torch raises a dozen kinds for damaged files, all of them mean the same
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} {checkpoint} cannot be read: {type(error).__name__} {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} {checkpoint} must hold names and tensors, got {type(content).__name__}")
    return content


def averaged_model_file(config: Mapping[str, Any]) -> str:
    """The name ESPnet gives to the average of the best epochs, by the first criterion: "valid.loss.ave.pth".

    Args:
        config: content of a config.yaml.

    Returns:
        The file's name.

    Raises:
        UserError: if the criterion is not a phase, a statistic and a direction.
    """
    criterion = config.get("best_model_criterion")
    try:
        phase, statistic, _ = criterion[0]  # type: ignore[index]  # whatever is in the file
    except (TypeError, IndexError, KeyError, ValueError):
        raise UserError(f"best_model_criterion must be a list of three words each, got {criterion}") from None
    return f"{phase}.{statistic}.ave.pth"


def check_finite(state: Mapping[str, Any], checkpoint: Path | str) -> None:
    """Refuse weights that are not finite: one NaN makes codes that look like any others, and noise of them.

    Args:
        state: name → tensor or array; what has no numbers with a point is let pass.
        checkpoint: file they come from.

    Raises:
        UserError: naming the file and the first of them.
    """
    problems = []
    for name, value in state.items():
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
            continue
        ends = torch.stack(tensor.aminmax())  # one look at each, and no mask as large as the weights
        if not bool(ends.isfinite().all()):
            problems.append(f"{'NaN' if ends.isnan().any() else 'infinity'} in {name}")
    if problems:
        raise UserError(f"{checkpoint} must hold finite weights, got {problems[0]} ({len(problems)} such)")


def check_weights(module: nn.Module, state: dict[str, Any], checkpoint: Path) -> None:
    """Refuse weights of another model, or that are not finite.

    Args:
        module: the model.
        state: the weights.
        checkpoint: file they come from.

    Raises:
        UserError: if keys or shapes differ, or a number is not finite; the message names the first.
    """
    own = module.state_dict()
    problems = [f"{key} is missing" for key in own.keys() - state.keys()]
    problems += [f"{key} is unknown" for key in state.keys() - own.keys()]
    problems += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if problems:
        raise UserError(f"{checkpoint} must hold weights of this model: {sorted(problems)[0]} ({len(problems)} such)")
    check_finite(state, checkpoint)


def load_strictly(module: nn.Module, checkpoint: Path) -> None:
    """Load weights and insist that every key fits.

    Args:
        module: the model.
        checkpoint: file of its state dict.

    Raises:
        UserError: if the file cannot be read, keys or shapes differ, or a number is not finite.
    """
    state = read_weights(checkpoint)
    check_weights(module, state, checkpoint)
    module.load_state_dict(state)
