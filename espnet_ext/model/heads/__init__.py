"""The heads of a model: how the codes of one step depend on its hidden vector and on each other."""

from espnet_ext.model.heads.ar import ARLocalTransformer
from espnet_ext.model.heads.base import (
    Head,
    Heads,
    HeadScores,
    LocalInput,
    LocalOutput,
    SlotClassifiers,
    SlotEmbedding,
    Slots,
    local_transformers,
    register_head,
)
from espnet_ext.model.heads.code_vectors import CODEC, MODEL, Codebooks, CodeVectors
from espnet_ext.model.heads.maskgit import MaskGITLocalTransformer, masked_counts
from espnet_ext.model.heads.parallel import ParallelHeads

LocalTransformer, SlotHeads = Head, SlotClassifiers  # their former names, which other packages import

__all__ = [
    "ARLocalTransformer",
    "CODEC",
    "CodeVectors",
    "Codebooks",
    "Head",
    "HeadScores",
    "Heads",
    "LocalInput",
    "LocalOutput",
    "LocalTransformer",
    "MODEL",
    "MaskGITLocalTransformer",
    "ParallelHeads",
    "SlotClassifiers",
    "SlotEmbedding",
    "SlotHeads",
    "Slots",
    "local_transformers",
    "masked_counts",
    "register_head",
]
