"""The heads of a model: how the codes of one step depend on its hidden vector and on each other."""

from espnet_ext.local_transformer.ar import ARLocalTransformer
from espnet_ext.local_transformer.base import (
    Heads,
    LocalOutput,
    LocalTransformer,
    SlotEmbedding,
    SlotHeads,
    local_transformers,
)
from espnet_ext.local_transformer.maskgit import MaskGITLocalTransformer, masked_counts
from espnet_ext.local_transformer.parallel import ParallelHeads

__all__ = [
    "ARLocalTransformer",
    "Heads",
    "LocalOutput",
    "LocalTransformer",
    "MaskGITLocalTransformer",
    "ParallelHeads",
    "SlotEmbedding",
    "SlotHeads",
    "local_transformers",
    "masked_counts",
]
