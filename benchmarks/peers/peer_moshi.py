"""Moshi's `LMGen` (a temporal transformer and a depth transformer), its own code, random weights.

Install: `benchmarks/peers/install.sh moshi`. Its text stream has the smallest vocabulary it takes; no delays.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator
from typing import Any

import torch
from worker import Decode, context_codes, serve


def build(sizes: dict[str, Any]) -> tuple[Decode, dict[str, Any]]:
    """The model, and its own generation, step by step."""
    lm = importlib.import_module("moshi.models.lm")
    books, size, batch, device = (sizes[name] for name in ("codebooks", "codebook_size", "batch", "device"))
    model = lm.LMModel(
        delays=[0] * (books + 1), n_q=books, dep_q=books, card=size, text_card=32, dim=sizes["width"],
        num_heads=sizes["heads"], num_layers=sizes["layers"], hidden_scale=4, norm="layer_norm", causal=True,
        positional_embedding="rope", context=2048, depformer_dim=sizes["local_width"], depformer_pos_emb="sin",
        depformer_num_heads=sizes["local_heads"], depformer_num_layers=sizes["local_layers"],
        depformer_dim_feedforward=4 * sizes["local_width"], depformer_weights_per_step=True, depformer_gating="silu",
        depformer_weights_per_step_schedule=[0] * books, device=device, dtype=getattr(torch,
        sizes.get("dtype", "float32")),
    ).eval()  # fmt: skip
    generate = lm.LMGen(model, use_sampling=sizes["top_k"] != 1, temp=1.0, top_k=max(sizes["top_k"], 1), temp_text=1.0)

    def decode(context: int, frames: int) -> Generator[None, None, torch.Tensor]:
        made = []
        with generate.streaming(batch):
            nothing = torch.zeros(batch, 0, 1, dtype=torch.int64, device=device)
            given = context_codes(1, context, books, size).to(device).expand(batch, -1, -1)
            for frame in range(context):  # its depth transformer runs over given codes as well
                replaced = torch.cat(
                    (torch.zeros(batch, 1, 1, dtype=torch.int64, device=device), given[:, frame, :, None]), 1
                )
                generate._step(nothing, depformer_replace_tokens=replaced[:, 1:])
            for _ in range(frames):
                out = generate.step(nothing)
                if out is not None:
                    made.append(out[:, 1:, 0])
                yield
        return torch.stack(made, dim=1).cpu() if made else torch.zeros(batch, 0, books)

    def local_only(context: int, frames: int) -> torch.Tensor:
        text, hidden = (
            torch.zeros(batch, dtype=torch.int64, device=device),
            torch.randn(batch, 1, sizes["width"], device=device),
        )
        with generate.streaming(batch):
            for _ in range(frames):
                codes = generate.depformer_step(text, hidden)
        return codes[:, None].expand(-1, frames, -1).cpu()

    facts = {"parameters": sum(p.numel() for p in model.parameters()), "version": "0.2.13"}
    return local_only if sizes.get("part") == "local" else decode, facts


if __name__ == "__main__":
    serve(build)
