"""audiocraft's MusicGen language model (delays, parallel heads, no local transformer), its own code, random weights.

Install: `benchmarks/peers/install.sh audiocraft`. Compared with our strategy `parallel`.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from typing import Any
from unittest.mock import MagicMock

import torch
from worker import Decode, serve


def build(sizes: dict[str, Any]) -> tuple[Decode, dict[str, Any]]:
    """The model, and its own `generate`."""
    # it loads all that it can do; what its language model does not need may be missing or linked against CUDA
    for name in (
        "torchaudio",
        "torchaudio.transforms",
        "torchaudio.functional",
        "xformers",
        "xformers.ops",
        "av",
        "julius",
    ):
        sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None))
    sys.modules["xformers"].ops = sys.modules["xformers.ops"]
    sys.modules["xformers.ops"].unbind = torch.unbind
    lm = importlib.import_module("audiocraft.models.lm")
    patterns = importlib.import_module("audiocraft.modules.codebooks_patterns")
    conditioners = importlib.import_module("audiocraft.modules.conditioners")
    books, size, batch, device = (sizes[name] for name in ("codebooks", "codebook_size", "batch", "device"))
    model = lm.LMModel(
        patterns.DelayedPatternProvider(books), conditioners.ConditioningProvider({}),
        conditioners.ConditionFuser({"sum": [], "prepend": [], "cross": [], "input_interpolate": []}),
        n_q=books, card=size, dim=sizes["width"], num_heads=sizes["heads"], hidden_scale=4, bias_proj=False,
        num_layers=sizes["layers"], causal=True, bias_ff=False, bias_attn=False, norm_first=True, custom=False,
        memory_efficient=True, attention_as_float32=False, activation="gelu", dropout=0.0, cfg_coef=1.0,
        positional_embedding="sin", device=device, dtype=getattr(torch, sizes.get("dtype", "float32")),
    ).eval()  # fmt: skip

    def decode(context: int, frames: int) -> torch.Tensor:
        del context  # what stands in front of its codes are conditions, of which there are none
        codes = model.generate(
            None, [], num_samples=batch, max_gen_len=frames, use_sampling=sizes["top_k"] != 1, temp=1.0,
            top_k=max(sizes["top_k"], 1), cfg_coef=1.0,
        )  # fmt: skip
        return codes.transpose(1, 2).cpu()

    facts = {"parameters": sum(p.numel() for p in model.parameters()), "version": "1.3.0"}
    return decode, facts


if __name__ == "__main__":
    serve(build)
