"""NeMo 3.0.0's MagpieTTS: its primary decoder and its local transformer, its own code, random weights.

Install: `benchmarks/peers/install.sh nemo`. The loop over frames is ours, with what MagpieTTS's own does in every step
but less: only the new frame is embedded, and the parallel heads' argmax for the end of speech is left out.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from worker import Decode, context_codes, enliven, serve


def build(sizes: dict[str, Any]) -> tuple[Decode, dict[str, Any]]:
    """The modules, and a loop over them."""
    from nemo.collections.tts.modules.magpietts_modules import LocalTransformerHelper
    from nemo.collections.tts.modules.transformer_2501 import Transformer

    books, size, batch, device = (sizes[name] for name in ("codebooks", "codebook_size", "batch", "device"))
    width, local_width = sizes["width"], sizes["local_width"]
    primary = Transformer(
        sizes["layers"], width, 4 * width, sizes["heads"], kernel_size=1, apply_norm_out=True,
        max_length_causal_mask=2048, use_learnable_pos_emb=True,
    )  # fmt: skip
    local = Transformer(
        sizes["local_layers"], local_width, 4 * local_width, sizes["local_heads"], kernel_size=1,
        max_length_causal_mask=books + 2, use_learnable_pos_emb=True,
    )  # fmt: skip
    tables = torch.nn.ModuleList(torch.nn.Embedding(size + 8, width) for _ in range(books))
    project = torch.nn.Linear(width, local_width)
    heads = torch.nn.ModuleList(torch.nn.Linear(local_width, size + 8) for _ in range(books))
    both = torch.nn.ModuleDict(
        {"primary": primary, "local": local, "tables": tables, "project": project, "heads": heads}
    )
    both = both.eval().to(device, getattr(torch, sizes.get("dtype", "float32")))
    enliven(both, sizes.get("gain"))
    same = torch.nn.Identity()
    helper = LocalTransformerHelper(local, tables, same, project, same, heads, books, 1, size + 1, size + 4, size)

    def embed(codes: torch.Tensor) -> torch.Tensor:
        return torch.stack([table(codes[:, :, n]) for n, table in enumerate(tables)]).mean(0)

    def decode(context: int, frames: int) -> Generator[None, None, torch.Tensor]:
        primary.reset_cache(use_cache=sizes.get("cache", True))
        start = torch.full((batch, 1, books), size, device=device)
        x = embed(torch.cat((context_codes(1, context, books, size).to(device).expand(batch, -1, -1), start), dim=1))
        made = []
        for _ in range(frames):
            hidden = primary(x, torch.ones(x.shape[:2], device=device))["output"][:, -1]
            greedy = sizes["top_k"] == 1
            codes = helper.sample_autoregressive(
                hidden, temperature=0.0 if greedy else 1.0, topk=max(sizes["top_k"], 1), forbid_audio_eos=True
            )
            made.append(codes[:, :, 0])
            x = torch.cat((x, embed(codes.transpose(1, 2))), dim=1)
            yield
        return torch.stack(made, dim=1).cpu()

    def local_only(context: int, frames: int) -> torch.Tensor:
        hidden = torch.randn(batch, width, device=device)
        for _ in range(frames):
            codes = helper.sample_autoregressive(
                hidden, temperature=1.0, topk=max(sizes["top_k"], 1), forbid_audio_eos=True
            )
        return codes[:, None, :, 0].expand(-1, frames, -1).cpu()

    facts = {"parameters": sum(p.numel() for p in both.parameters()), "version": "3.0.0"}
    weights = {name: value.cpu() for name, value in both.state_dict().items()}
    return local_only if sizes.get("part") == "local" else decode, {**facts, "weights": weights}


if __name__ == "__main__":
    serve(build)
