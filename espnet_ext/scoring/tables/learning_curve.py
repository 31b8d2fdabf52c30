"""Losses and accuracies per epoch of an ESPnet training, from its checkpoint or its log."""

from __future__ import annotations

import logging
import math
import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from espnet_ext.errors import UserError
from espnet_ext.storage.checkpoint import TRAINER_TYPES

Curves = dict[str, dict[str, dict[int, float]]]  # part (train, valid) → statistic → epoch → value

_RESULTS = re.compile(r"\b(\d+)epoch results: (.*)")
_PART = re.compile(r"\[(\w+)\] (.*?)(?=, \[\w+\] |$)")
_VALUE = re.compile(r"(?<!\w)(\w+)=([-+0-9.enaif]+)(?=,|$)")


def _curves(found: Iterable[tuple[str, str, int, float]]) -> Curves:
    """Curves of finite values, each with its part, statistic and epoch; a later one replaces an earlier one."""
    curves: Curves = {}
    for part, name, epoch, value in found:
        if math.isfinite(value):
            curves.setdefault(part, {}).setdefault(name, {})[epoch] = value
    return curves


def parse_train_log(text: str) -> Curves:
    """Curves from the lines "Nepoch results: [train] loss=1.2, …, [valid] loss=1.1, …" of a log; empty without any.

    >>> parse_train_log("INFO: 1epoch results: [train] loss=2.5, time=3.2 seconds, [valid] loss=2.25")
    {'train': {'loss': {1: 2.5}}, 'valid': {'loss': {1: 2.25}}}
    """
    return _curves(
        (part, name, int(epoch), float(value))
        for epoch, results in _RESULTS.findall(text)
        for part, values in _PART.findall(results)
        for name, value in _VALUE.findall(values)
    )


def _read_checkpoint(path: Path) -> Curves:
    with torch.serialization.safe_globals(TRAINER_TYPES):
        stats = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["reporter"]["stats"]
    return _curves(
        (part, name, int(epoch), float(value))
        for epoch, parts in stats.items()
        for part, values in parts.items()
        for name, value in values.items()
        if isinstance(value, float | np.floating)
    )


def read_learning_curves(train_dir: Path) -> Curves:
    """Curves of a training, of every epoch even if it was interrupted and resumed.

    The checkpoint is preferred: it holds all epochs in full precision, while a log may be of the last run only.

    Args:
        train_dir: ESPnet's output directory, with checkpoint.pth or train.log.

    Returns:
        The curves.

    Raises:
        FileNotFoundError: if neither file is there.
        UserError: if no epoch is in them.
    """
    checkpoint, log = train_dir / "checkpoint.pth", train_dir / "train.log"
    curves: Curves = {}
    if checkpoint.is_file():
        try:
            curves = _read_checkpoint(checkpoint)
        except (RuntimeError, EOFError, OSError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
            logging.warning("no learning curve in %s: %s", checkpoint, " ".join(str(error).split())[:200])
    if not curves and log.is_file():
        curves = parse_train_log(log.read_text(encoding="utf-8", errors="replace"))
    if not curves and not checkpoint.is_file() and not log.is_file():
        raise FileNotFoundError(f"train_dir must hold checkpoint.pth or train.log, got {train_dir}")
    if not curves:
        raise UserError(f"train_dir must hold a training with a finished epoch, got {train_dir}")
    return curves
