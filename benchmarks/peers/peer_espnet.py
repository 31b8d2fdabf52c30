"""ESPnet 202506's `MultiScaleLM`, the only public local transformer of ESPnet: its own code, random weights.

Install: `benchmarks/peers/install.sh espnet` unpacks its speech language model from the wheel beside this file; it
needs nothing but torch, and espnet_ext never imports it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from worker import Decode, context_codes, enliven, serve

HERE = Path(__file__).parent
SPECIALS = 64  # ids in front of the codes in the joint vocabulary
START, EOS = 1, 5


def build(sizes: dict[str, Any]) -> tuple[Decode, dict[str, Any]]:
    """The model, and its inference with so many frames."""
    sys.path.insert(0, sizes.get("path") or str(HERE / ".espnet202506"))
    from espnet2.speechlm.core_lm.abs_core_lm import SpeechLMInferenceOptions
    from espnet2.speechlm.core_lm.ar_multiscale import MultiScaleLM

    books, size, batch, device = (sizes[name] for name in ("codebooks", "codebook_size", "batch", "device"))
    vocabulary = SPECIALS + books * size
    model = MultiScaleLM(
        vocabulary, books, True, sizes["width"], sizes["heads"], sizes["layers"], sizes["width"],
        sizes["local_heads"], sizes["local_layers"],
    ).eval().to(device, getattr(torch, sizes.get("dtype", "float32")))  # fmt: skip
    enliven(model, sizes.get("gain"))
    masks = torch.ones(books, vocabulary, dtype=torch.bool, device=device)
    for book in range(books):
        masks[book, SPECIALS + book * size : SPECIALS + (book + 1) * size] = False
    offset = SPECIALS + torch.arange(books, device=device) * size

    def decode(context: int, frames: int) -> torch.Tensor:
        prefix = context_codes(1, context, books, size).to(device) + offset
        options = SpeechLMInferenceOptions(
            device=device, search_algo="greedy_search" if sizes["top_k"] == 1 else "sampling", nbest=batch,
            top_k=max(sizes["top_k"], 1), maxlenratio=frames / context + 1e-9, minlenratio=1e9, eos=EOS, start=START,
            masks=masks.clone(), nq=books,
        )  # fmt: skip
        collected: list[torch.Tensor] = []
        embed = model.emb.register_forward_hook(
            lambda _, given, __: collected.append(given[0]) if given[0].shape == (batch, 1) else None
        )
        model.inference(prefix, options, suffix=prefix)
        embed.remove()
        steps = torch.stack(collected, dim=2).view(batch, frames, books)
        return (steps - offset).cpu()

    facts = {"parameters": sum(p.numel() for p in model.parameters()), "version": "202506"}
    return decode, {**facts, "weights": {name: value.cpu() for name, value in model.state_dict().items()}}


if __name__ == "__main__":
    serve(build)
