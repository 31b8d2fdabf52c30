"""Parts that are trained beside a core LM; importing this package registers them."""

from espnet_ext.model.parts.base import Again, LayerPart, Part, Parts, PartScores, Taught, parts, register_part
from espnet_ext.model.parts.early_exit import EarlyExit
from espnet_ext.model.parts.hidden_transfer import HiddenTransfer
from espnet_ext.model.parts.lookahead import Lookahead
from espnet_ext.model.parts.masks import Masks
from espnet_ext.model.parts.prompts import Prompts
from espnet_ext.model.parts.routers import Routers
from espnet_ext.model.parts.unmasking_filter import UnmaskingFilter

__all__ = [
    "Again",
    "EarlyExit",
    "HiddenTransfer",
    "LayerPart",
    "Lookahead",
    "Masks",
    "Part",
    "PartScores",
    "Parts",
    "Prompts",
    "Routers",
    "Taught",
    "UnmaskingFilter",
    "parts",
    "register_part",
]
