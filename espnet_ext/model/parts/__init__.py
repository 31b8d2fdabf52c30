"""Parts that are trained beside a core LM; importing this package registers them."""

from espnet_ext.model.parts.base import Part, Parts, PartScores, Taught, parts, register_part
from espnet_ext.model.parts.lookahead import Lookahead
from espnet_ext.model.parts.masks import Masks
from espnet_ext.model.parts.prompts import Prompts
from espnet_ext.model.parts.unmasking_filter import UnmaskingFilter

__all__ = [
    "Lookahead",
    "Masks",
    "Part",
    "PartScores",
    "Parts",
    "Prompts",
    "Taught",
    "UnmaskingFilter",
    "parts",
    "register_part",
]
