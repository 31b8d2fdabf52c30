"""Primary transformers; importing this package registers them."""

from espnet_ext.model.primary.annealed_prior import AnnealedPrior
from espnet_ext.model.primary.attention_prior import AttentionPrior, PathPrior, attention_priors, register_prior
from espnet_ext.model.primary.base import (
    Conditions,
    Ending,
    Primary,
    PrimaryOutput,
    PrimaryState,
    close_gaps,
    primaries,
    register_primary,
    rows_of,
    rows_together,
    with_unconditional,
)
from espnet_ext.model.primary.cross_attention import CrossAttentionPrimary
from espnet_ext.model.primary.known_path import Known
from espnet_ext.model.primary.prefix import PrefixPrimary

__all__ = [
    "AnnealedPrior",
    "AttentionPrior",
    "Conditions",
    "CrossAttentionPrimary",
    "Ending",
    "Known",
    "PrefixPrimary",
    "PathPrior",
    "Primary",
    "PrimaryOutput",
    "PrimaryState",
    "attention_priors",
    "close_gaps",
    "primaries",
    "register_primary",
    "register_prior",
    "rows_of",
    "rows_together",
    "with_unconditional",
]
