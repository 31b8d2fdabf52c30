"""Primary transformers; importing this package registers them."""

from espnet_ext.primary.base import Conditions, Primary, PrimaryOutput, PrimaryState, primaries
from espnet_ext.primary.cross_attention import CrossAttentionPrimary
from espnet_ext.primary.prefix import PrefixPrimary

__all__ = [
    "Conditions",
    "CrossAttentionPrimary",
    "PrefixPrimary",
    "Primary",
    "PrimaryOutput",
    "PrimaryState",
    "primaries",
]
