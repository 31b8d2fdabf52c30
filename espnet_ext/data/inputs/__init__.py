"""What core LMs are given, by the name that a core LM `reads`; a package with a core LM of its own registers more."""

from espnet_ext.data.inputs.base import CODEC_DIRECTORY, SEMANTIC_DIRECTORY, Inputs, input_kinds, register_inputs
from espnet_ext.data.inputs.semantic import SemanticInputs
from espnet_ext.data.inputs.text import TextInputs

__all__ = [
    "CODEC_DIRECTORY",
    "SEMANTIC_DIRECTORY",
    "Inputs",
    "SemanticInputs",
    "TextInputs",
    "input_kinds",
    "register_inputs",
]
