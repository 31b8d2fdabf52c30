"""Contracts of everything that another package can add, for its own tests: docs/extending.md shows them at work."""

from espnet_ext.testing.cache import check_cache
from espnet_ext.testing.codec import check_codec
from espnet_ext.testing.evaluator import (
    check_evaluator,
    check_opinion_predictor,
    check_recogniser,
    check_speaker_encoder,
)
from espnet_ext.testing.exactness import check_same_distribution
from espnet_ext.testing.g2p import check_g2p
from espnet_ext.testing.order import check_order
from espnet_ext.testing.part import check_part
from espnet_ext.testing.semantic import check_semantic_tokenizer
from espnet_ext.testing.speculation import check_acceptance, check_drafter
from espnet_ext.testing.steps import check_steps
from espnet_ext.testing.strategy import check_strategy

__all__ = [
    "check_acceptance",
    "check_cache",
    "check_codec",
    "check_drafter",
    "check_evaluator",
    "check_g2p",
    "check_opinion_predictor",
    "check_order",
    "check_part",
    "check_recogniser",
    "check_same_distribution",
    "check_semantic_tokenizer",
    "check_speaker_encoder",
    "check_steps",
    "check_strategy",
]
