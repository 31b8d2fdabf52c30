"""torch.compile for the steps of a transformer, with eager execution as the way out."""

from __future__ import annotations

import logging
import os
import tempfile
from typing import Any

import torch
from torch import Tensor

from espnet_ext.fast.fallback import can_read, can_run
from espnet_ext.model.transformer import Transformer
from espnet_ext.storage.own_cache import own_cache


def compile_step(transformer: Transformer) -> None:
    """Have torch.compile make the kernels of a transformer; where that fails, go on without, after one warning.

    Args:
        transformer: whose calls are compiled, when they first happen.
    """
    # torch's own place for what it compiles is /tmp/torchinductor_NAME, which any user can make before
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        try:
            place = str(own_cache() / "inductor")
        except OSError:  # no home to write to
            place = tempfile.mkdtemp(prefix="inductor")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = place
    eager = transformer.forward
    compiled: Any = torch.compile(eager, dynamic=True)
    works = [True]

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        if works[0] and can_read("compile", kwargs.get("cache")) and can_run("compile", kwargs.get("layers")):
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
