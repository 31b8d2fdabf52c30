"""Weights of peers in models of ours, so that greedy codes can be compared.

The structure that the peers do not share with our models is here: ESPnet adds the hidden vector to every slot, has
biases everywhere and the exact GELU; NeMo's local transformer has no norm at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec
from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.model.heads import ARLocalTransformer, SlotClassifiers, Slots
from espnet_ext.model.primary import PrefixPrimary
from espnet_ext.model.transformer import Block, Transformer

Weights = Mapping[str, Tensor]


class MultiScaleLocal(ARLocalTransformer):
    """The local transformer of ESPnet's MultiScaleLM: every slot's input is the hidden vector and the code before."""

    placeholder: nn.Parameter

    def read(self, hidden: Tensor, codes: Tensor, start: int = 0) -> Tensor:
        """The input of slots start …, see `SlotTransformer.read`."""
        before = self.embedding(codes, max(start - 1, 0))
        if start == 0:
            before = torch.cat((self.placeholder.expand(len(hidden), 1, -1), before), dim=1)
        return before + hidden[:, None] + self.position[start : start + before.shape[1]]


class NoNorm(nn.LayerNorm):
    """A norm that does nothing, where a peer has none."""

    def forward(self, x: Tensor) -> Tensor:
        """The input."""
        return x


def decoder_only(sizes: Mapping[str, Any], positions: int) -> TextCoreLM:
    """Our model of these sizes with learned positions, its segments 0."""
    spec = CodecSpec(sizes["codebooks"], sizes["codebook_size"], 75.0, 24000)
    primary = {name: sizes[name] for name in ("width", "layers", "heads")}
    primary |= {"position": "learned", "max_positions": positions, "dropout": 0.0}
    local = {name: sizes[f"local_{name}"] for name in ("width", "layers", "heads")}
    model = TextCoreLM(spec, 1, "prefix", primary, "ar", local).eval()
    assert isinstance(model.primary, PrefixPrimary)
    nn.init.zeros_(model.primary.segment)
    return model


@torch.no_grad()
def from_espnet(weights: Weights, sizes: Mapping[str, Any], specials: int = 64, start: int = 1) -> TextCoreLM:
    """A model with the weights of ESPnet's MultiScaleLM.

    Args:
        weights: its state dict.
        sizes: those it was built with.
        specials: ids in front of the codes in its joint vocabulary.
        start: the id that begins an utterance.

    Returns:
        The model.
    """
    sizes = {**sizes, "local_width": sizes["width"]}
    model = decoder_only(sizes, len(weights["g_decoders.pos_emb.weight"]))
    spec, books, size = model.spec, sizes["codebooks"], sizes["codebook_size"]
    own = {name: sizes[f"local_{name}"] for name in ("width", "layers", "heads")}
    local = MultiScaleLocal(None, Slots(spec, books), sizes["width"], False, **own)
    model.heads["ar"] = local.eval()
    rows = torch.full((books, spec.vocab_size), start)
    rows[:, :size] = specials + torch.arange(books * size).view(books, size)
    # ours is the mean over the tables, ESPnet's the sum; a power of two changes no digit
    model.embedding.table.weight.copy_(weights["emb.weight"][rows.flatten()] * books)
    local.embedding.table.weight.copy_(weights["emb.weight"][rows.flatten()])
    local.placeholder = nn.Parameter(weights["placeholder"])
    local.position.copy_(weights["l_decoders.pos_emb.weight"][: len(local.position)])
    heads = local.heads
    assert isinstance(heads, SlotClassifiers) and isinstance(model.primary, PrefixPrimary)
    heads.weight.copy_(weights["lm_head.weight"][rows].transpose(1, 2))
    assert model.primary.position is not None
    model.primary.position.weight.copy_(weights["g_decoders.pos_emb.weight"])
    _copy_espnet(model.primary.transformer, weights, "g_decoders")
    _copy_espnet(local.transformer, weights, "l_decoders")
    return model


def _copy_espnet(transformer: Transformer, weights: Weights, prefix: str) -> None:
    for number, block in enumerate(transformer.blocks):
        assert isinstance(block, Block) and block.feed_forward.up is not None
        name = f"{prefix}.blocks.{number}"
        parts = [weights[f"{name}.attn.{part}.weight"] for part in ("query", "key", "value")]
        query, value = (weights[f"{name}.attn.{part}.bias"] for part in ("query", "value"))
        _set(block.attention.qkv, torch.cat(parts), torch.cat((query, torch.zeros_like(query), value)))
        _set(block.attention.out, weights[f"{name}.attn.out.weight"], weights[f"{name}.attn.out.bias"])
        _set(block.feed_forward.up, weights[f"{name}.mlp.0.weight"], weights[f"{name}.mlp.0.bias"])
        _set(block.feed_forward.down, weights[f"{name}.mlp.2.weight"], weights[f"{name}.mlp.2.bias"])
        _set(block.attention_norm, weights[f"{name}.attn_ln.weight"], weights[f"{name}.attn_ln.bias"])
        _set(block.feed_forward_norm, weights[f"{name}.mlp_ln.weight"], weights[f"{name}.mlp_ln.bias"])
        block.feed_forward.approximate = "none"
    _set(transformer.norm, weights[f"{prefix}.ln.weight"], weights[f"{prefix}.ln.bias"])


def _set(module: nn.Linear | nn.LayerNorm, weight: Tensor, bias: Tensor) -> None:
    module.weight.copy_(weight)
    module.bias = nn.Parameter(bias.clone())


@torch.no_grad()
def from_nemo(weights: Weights, sizes: Mapping[str, Any]) -> TextCoreLM:
    """A model with the weights of NeMo's decoder and local transformer, as `peer_nemo.py` builds them.

    Args:
        weights: their state dict.
        sizes: those they were built with.

    Returns:
        The model.
    """
    model = decoder_only(sizes, len(weights["primary.position_embeddings.weight"]))
    local, spec = model.heads["ar"], model.spec
    assert isinstance(local, ARLocalTransformer) and isinstance(model.primary, PrefixPrimary)
    # of NeMo's eight special ids ours keep the first ones: BOS, EOS
    tables = [weights[f"tables.{n}.weight"][: spec.vocab_size] for n in range(spec.num_codebooks)]
    model.embedding.table.weight.copy_(torch.cat(tables))
    local.input_projection.weight.copy_(weights["project.weight"])
    local.input_projection.bias.copy_(weights["project.bias"])
    local.position.copy_(weights["local.position_embeddings.weight"][: len(local.position)])
    assert isinstance(local.heads, SlotClassifiers) and model.primary.position is not None
    for n in range(spec.num_codebooks):
        local.heads.weight[n].copy_(weights[f"heads.{n}.weight"][: spec.vocab_size].t())
        local.heads.bias[n].copy_(weights[f"heads.{n}.bias"][: spec.vocab_size])
    model.primary.position.weight.copy_(weights["primary.position_embeddings.weight"])
    _copy_nemo(model.primary.transformer, weights, "primary")
    model.primary.transformer.norm.weight.copy_(weights["primary.norm_out.weight"])
    _copy_nemo(local.transformer, weights, "local")
    local.transformer.norm = NoNorm(sizes["local_width"], bias=False)
    return model


def _copy_nemo(transformer: Transformer, weights: Weights, prefix: str) -> None:
    for number, block in enumerate(transformer.blocks):
        assert isinstance(block, Block) and block.feed_forward.up is not None
        name = f"{prefix}.layers.{number}"
        block.attention.qkv.weight.copy_(weights[f"{name}.self_attention.qkv_net.weight"])
        block.attention.out.weight.copy_(weights[f"{name}.self_attention.o_net.weight"])
        block.attention_norm.weight.copy_(weights[f"{name}.norm_self.weight"])
        block.feed_forward_norm.weight.copy_(weights[f"{name}.norm_pos_ff.weight"])
        for ours, theirs in ((block.feed_forward.up, "proj"), (block.feed_forward.down, "o_net")):
            ours.weight.copy_(weights[f"{name}.pos_ff.{theirs}.conv.weight"][..., 0])
            nn.init.zeros_(ours.bias)
