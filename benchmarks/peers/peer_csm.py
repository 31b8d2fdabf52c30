"""Hugging Face's CSM (Sesame's model): a backbone and a depth decoder, its own code, random weights.

Install: `benchmarks/peers/install.sh csm`. Sizes are ours; its feed-forward is gated, with an inner width of 8/3 D, so
that blocks have as many weights.
"""

from __future__ import annotations

from typing import Any

import torch
from worker import Decode, context_codes, serve


def build(sizes: dict[str, Any]) -> tuple[Decode, dict[str, Any]]:
    """The model, and `generate` of so many frames."""
    from transformers import CsmConfig, CsmForConditionalGeneration
    from transformers.models.csm.configuration_csm import CsmDepthDecoderConfig

    books, size, batch, device = (sizes[name] for name in ("codebooks", "codebook_size", "batch", "device"))
    depth = CsmDepthDecoderConfig(
        num_codebooks=books, backbone_hidden_size=sizes["width"], vocab_size=size + 3, hidden_size=sizes["local_width"],
        intermediate_size=sizes["local_width"] * 8 // 3, num_hidden_layers=sizes["local_layers"],
        num_attention_heads=sizes["local_heads"], num_key_value_heads=sizes["local_heads"],
        head_dim=sizes["local_width"] // sizes["local_heads"], max_position_embeddings=books + 1,
    )  # fmt: skip
    config = CsmConfig(
        num_codebooks=books, vocab_size=size + 3, text_vocab_size=64, hidden_size=sizes["width"],
        intermediate_size=sizes["width"] * 8 // 3, num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["heads"], head_dim=sizes["width"] // sizes["heads"],
        depth_decoder_config=depth.to_dict(),
        codebook_eos_token_id=size + 2, codebook_pad_token_id=size + 1, audio_token_id=60,
        audio_eos_token_id=61, bos_token_id=62, eos_token_id=None, pad_token_id=63,
    )  # fmt: skip
    model = CsmForConditionalGeneration(config).eval().to(device, getattr(torch, sizes.get("dtype", "float32")))
    model.generation_config.depth_decoder_max_new_tokens = books - 1

    def decode(context: int, frames: int) -> torch.Tensor:
        text = context_codes(1, max(context, 1), 1, 60)[..., 0].to(device).expand(batch, -1)
        options = {"do_sample": sizes["top_k"] != 1, "depth_decoder_do_sample": sizes["top_k"] != 1}
        if sizes["top_k"] != 1:
            options |= {"top_k": sizes["top_k"], "depth_decoder_top_k": sizes["top_k"]}
        return model.generate(
            input_ids=text, attention_mask=torch.ones_like(text), max_new_tokens=frames, **options
        ).cpu()

    facts = {
        "parameters": sum(p.numel() for n, p in model.named_parameters() if "codec_model" not in n),
        "version": "csm",
    }
    return decode, facts


if __name__ == "__main__":
    serve(build)
