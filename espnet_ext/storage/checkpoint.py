"""Weights on disk: written in one piece, read with every key accounted for."""

from __future__ import annotations

import datetime
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar  # what numpy pickles its numbers with
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.checksums import verify
from espnet_ext.storage.tensor_files import SUFFIX, read_tensors

_NUMBERS = [np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType, np.dtypes.BoolDType]
# what ESPnet's reporter keeps besides plain numbers; nothing else in a checkpoint may run code when it is read
TRAINER_TYPES: list[Any] = [datetime.timedelta, scalar, np.dtype, *_NUMBERS]


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
        # to a stream, because an archive is called after its file: the same weights are then the same bytes
        with atomic_path(Path(file)) as temporary, temporary.open("wb") as stream:
            try:
                save(content, stream, *args, **options)
            except RuntimeError as error:  # what torch's zip writer makes of a full disk
                reason = str(error).splitlines()[0]
                raise OSError(f"{file} cannot be written (is the disk full?): {reason}") from None

    torch.save = save_atomically  # type: ignore[assignment]  # ESPnet calls it by this name
    try:
        yield
    finally:
        torch.save = save


@contextmanager
def data_only_loads(trust: bool = False) -> Iterator[None]:
    """While the block runs, `torch.load` reads numbers and plain values, and refuses what would run code or is damaged.

    ESPnet's trainer asks for everything when it resumes, averages and takes over weights.

    Args:
        trust: let it have everything.

    Yields:
        Nothing.
    """
    load = torch.load

    def load_data(file: Any, *args: Any, **options: Any) -> Any:
        if str(file).endswith(SUFFIX):  # as init_param
            return read_weights(Path(file), "init_param")
        with torch.serialization.safe_globals(TRAINER_TYPES):
            try:
                if isinstance(file, str | os.PathLike):
                    _check_whole(Path(file))
                # of ESPnet's releases, older ones ask for everything and newer ones for data alone
                return load(file, *args, **{**options, "weights_only": not trust})
            except Exception as error:
                if isinstance(error, UserError) or getattr(error, "filename", None):  # torch's own errors name nothing
                    raise
                raise _refusal("checkpoint", file, error) from None

    torch.load = load_data  # type: ignore[assignment]  # likewise
    try:
        yield
    finally:
        torch.load = load


def _check_whole(checkpoint: Path) -> None:
    """Refuse damaged weights. torch writes a checksum of every tensor, too, and does not look at it."""
    if not verify(checkpoint) and zipfile.is_zipfile(checkpoint):
        with zipfile.ZipFile(checkpoint) as tensors:
            damaged = tensors.testzip()
        if damaged is not None:
            raise UserError(f"{checkpoint} is damaged (the checksum of {damaged} in it): copy it again or train again")


def _refusal(name: str, checkpoint: object, error: Exception) -> UserError:
    text = " ".join(str(error).split())
    found = re.search(r"GLOBAL (\S+)", text)  # torch says which; other errors are of damaged files
    if found:
        return UserError(
            f"{name} {checkpoint} must hold tensors and plain values, got {found[1]}, which could run code"
        )
    return UserError(f"{name} {checkpoint} cannot be read: {type(error).__name__} {text[:200]}")


def read_weights(checkpoint: Path, name: str = "model_file", trust: bool = False) -> dict[str, Any]:
    """What a file written by `torch.save`, or one in safetensors, holds.

    Args:
        checkpoint: the file; a trainer's own checkpoint holds `TRAINER_TYPES` besides tensors.
        name: what the file is, in the words of the user's option.
        trust: read everything, though that may run code.

    Returns:
        The content.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it cannot be read or holds no mapping.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{name} not found: {checkpoint} (is the training finished?)")
    if checkpoint.suffix == SUFFIX:
        verify(checkpoint)
        return read_tensors(checkpoint, name)
    try:
        with torch.serialization.safe_globals(TRAINER_TYPES):
            _check_whole(checkpoint)
            content = torch.load(checkpoint, map_location="cpu", weights_only=not trust)
    except UserError:
        raise
    except Exception as error:  # torch raises a dozen kinds for damaged files, all of them mean the same
        raise _refusal(name, checkpoint, error) from None
    if not isinstance(content, dict):
        raise UserError(f"{name} {checkpoint} must hold names and tensors, got {type(content).__name__}")
    return content


def averaged_model_file(config: Mapping[str, Any]) -> str:
    """The name ESPnet gives to the average of the best epochs, by the first criterion: "valid.loss.ave.pth".

    Of ESPnet3 a criterion is "valid/loss", how many epochs, and a direction.

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
        if isinstance(statistic, int):
            phase, statistic = phase.split("/")
        name = f"{phase}.{statistic}.ave.pth"
        if not re.fullmatch(r"[\w.-]+", name):  # a slash would lead into another directory
            raise ValueError
    except (AttributeError, TypeError, IndexError, KeyError, ValueError):
        raise UserError(f"best_model_criterion must be a list of three words each, got {criterion}") from None
    return name


def weights_file(directory: Path, averaged: str) -> str:
    """The name of the weights in an experiment: the average, or what was exported under its name.

    Args:
        directory: of the experiment.
        averaged: what `averaged_model_file` says.

    Returns:
        The file's name; that of the average where there is neither.

    Raises:
        UserError: if there are both: nobody could tell which ones are meant.
    """
    exported = str(Path(averaged).with_suffix(SUFFIX))
    if not (directory / exported).is_file():
        return averaged
    if (directory / averaged).is_file():
        raise UserError(f"{directory} must hold {averaged} or {exported}, got both: remove one, or name a model_file")
    return exported


def check_finite(state: Mapping[str, Any], checkpoint: Path | str) -> None:
    """Refuse weights that are not finite: one NaN makes codes that look like any others, and noise of them.

    Those that repeat few numbers without end are refused as well: whoever copies them would need any amount of memory.

    Args:
        state: name → tensor or array; what has no numbers with a point is let pass.
        checkpoint: file they come from.

    Raises:
        UserError: naming the file and the first of them.
    """
    problems = []
    for name, value in state.items():
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        if isinstance(tensor, Tensor) and tensor.nbytes > tensor.untyped_storage().nbytes():
            raise UserError(f"{checkpoint} must hold all its weights, got {name} of {tuple(tensor.shape)} in few bytes")
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
