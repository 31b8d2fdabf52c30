"""Core language models; importing this package registers them."""

from espnet_ext.model.core_lm.base import (
    CoreLM,
    CoreLMOutput,
    corelms,
    local_options,
    register_corelm,
)
from espnet_ext.model.core_lm.gpst import GPST, JointConditions
from espnet_ext.model.core_lm.step_model import StepConditions, StepModel
from espnet_ext.model.core_lm.text import TextCoreLM
from espnet_ext.model.core_lm.unit_stage import UnitStage
from espnet_ext.model.heads import HeadScores

__all__ = [
    "GPST",
    "CoreLM",
    "CoreLMOutput",
    "HeadScores",
    "JointConditions",
    "StepConditions",
    "StepModel",
    "TextCoreLM",
    "UnitStage",
    "corelms",
    "local_options",
    "register_corelm",
]
