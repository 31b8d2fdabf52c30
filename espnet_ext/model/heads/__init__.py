"""The heads of a model: how the codes of one step depend on its hidden vector and on each other."""

from espnet_ext.model.heads.ar import ARLocalTransformer
from espnet_ext.model.heads.base import (
    Heads,
    LocalInput,
    LocalOutput,
    LocalTransformer,
    SlotEmbedding,
    SlotHeads,
    Slots,
    local_transformers,
)
from espnet_ext.model.heads.maskgit import MaskGITLocalTransformer, masked_counts
from espnet_ext.model.heads.parallel import ParallelHeads

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
