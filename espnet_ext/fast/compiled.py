"""torch.compile for the steps of a transformer, with eager execution as the way out."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from espnet_ext.model.transformer import Transformer


def compile_step(transformer: Transformer) -> None:
    """Have torch.compile make the kernels of a transformer; where that fails, go on without, after one warning.

    Args:
        transformer: whose calls are compiled, when they first happen.
    """
    eager = transformer.forward
    compiled: Any = torch.compile(eager, dynamic=True)
    works = [True]

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        if works[0]:
            length = getattr(kwargs.get("cache"), "length", None)
            try:
                out: Tensor = compiled(*args, **kwargs)
                return out
            except (RuntimeError, AssertionError, torch._dynamo.exc.TorchDynamoException) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                works[0] = False
                logging.warning("compile: going on without: %s", str(error).strip().partition("\n")[0])
                if length is not None:
                    kwargs["cache"].length = length
        return eager(*args, **kwargs)

    transformer.forward = forward  # type: ignore[method-assign]
