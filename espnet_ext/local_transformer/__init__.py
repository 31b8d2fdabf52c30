"""The heads of a model: how the codes of one step depend on its hidden vector and on each other."""

from espnet_ext.local_transformer.ar import ARLocalTransformer
from espnet_ext.local_transformer.base import (
    Heads,
    LocalInput,
    LocalOutput,
    LocalTransformer,
    SlotEmbedding,
    SlotHeads,
    Slots,
    local_transformers,
)
from espnet_ext.local_transformer.maskgit import MaskGITLocalTransformer, masked_counts
from espnet_ext.local_transformer.parallel import ParallelHeads

__all__ = [
    "ARLocalTransformer",
    "Heads",
    "LocalInput",
    "LocalOutput",
    "LocalTransformer",
    "MaskGITLocalTransformer",
    "ParallelHeads",
    "SlotEmbedding",
    "SlotHeads",
    "Slots",
    "local_transformers",
    "masked_counts",
]
