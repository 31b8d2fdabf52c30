"""Primary transformers; importing this package registers them."""

from espnet_ext.model.primary.abilities import FillsSteps, LooksAhead, RunsSomeLayers
from espnet_ext.model.primary.annealed_prior import AnnealedPrior
from espnet_ext.model.primary.attention_prior import AttentionPrior, PathPrior, attention_priors, register_prior
from espnet_ext.model.primary.base import Primary, PrimaryOutput, close_gaps, primaries, register_primary
from espnet_ext.model.primary.conditions import Conditions, rows_of, rows_together, with_unconditional
from espnet_ext.model.primary.cross_attention import CrossAttentionPrimary
from espnet_ext.model.primary.known_path import Known
from espnet_ext.model.primary.prefix import PrefixPrimary
from espnet_ext.model.primary.state import Ending, PrimaryState

__all__ = [
    "AnnealedPrior",
    "AttentionPrior",
    "Conditions",
    "CrossAttentionPrimary",
    "Ending",
    "FillsSteps",
    "Known",
    "LooksAhead",
    "PrefixPrimary",
    "PathPrior",
    "Primary",
    "PrimaryOutput",
    "PrimaryState",
    "RunsSomeLayers",
    "attention_priors",
    "close_gaps",
    "primaries",
    "register_primary",
    "register_prior",
    "rows_of",
    "rows_together",
    "with_unconditional",
]
