"""Where modules are that other packages import by their former names: those names keep working.

A finder that Python asks first: a package under its former name would be searched for modules a second time.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "espnet_ext."
MOVED = {
    "alignment": "model.alignment",
    "ark": "data.ark",
    "atomic": "storage.atomic",
    "attention": "model.attention",
    "checkpoint": "storage.checkpoint",
    "cmudict": "tokenizers.text.cmudict",
    "codec": "tokenizers.codec",
    "codec.audio": "data.audio",
    "codec.files": "tokenizers.codec",
    "codec.jobs": "data.encoding",
    "config": "storage.yaml_files",
    "core_lm": "model.core_lm",
    "data_batches": "data.inputs.batches",
    "datadir": "data.datadir",
    "decode_command": "inference.options",
    "decode_options": "decoding.options",
    "download": "storage.download",
    "espnet_model": "tasks.espnet_model",
    "evaluate_options": "scoring.options",
    "experiment": "inference.experiment",
    "finished": "jobs.finished",
    "g2p": "tokenizers.text.g2p",
    "gpst_inference": "inference.gpst",
    "gpst_jobs": "inference.model_ref",
    "gpst_modes": "inference.gpst_modes",
    "joint_preprocess": "data.joint_preprocess",
    "listener": "inference.listener",
    "local_transformer": "model.heads",
    "loss": "model.loss",
    "model_info": "tokenizers.description",
    "preprocess": "data.preprocess",
    "primary": "model.primary",
    "report": "scoring.page",
    "sampling": "decoding.sampling",
    "scoring.advice": "scoring.tables.advice",
    "scoring.bootstrap": "scoring.measures.bootstrap",
    "scoring.condition": "scoring.measures.condition",
    "scoring.distortion": "scoring.measures.distortion",
    "scoring.error_rate": "scoring.measures.error_rate",
    "scoring.evaluator": "scoring.evaluators.evaluator",
    "scoring.figures": "scoring.tables.figures",
    "scoring.fluency": "scoring.measures.fluency",
    "scoring.frame_codes": "scoring.measures.frame_codes",
    "scoring.frame_distance": "scoring.measures.frame_distance",
    "scoring.frechet": "scoring.measures.frechet",
    "scoring.heard": "scoring.measures.heard",
    "scoring.learning_curve": "scoring.tables.learning_curve",
    "scoring.likeness": "scoring.measures.speaker",
    "scoring.markdown": "scoring.tables.markdown",
    "scoring.measure": "scoring.tables.measure",
    "scoring.measure_tables": "scoring.tables.measure_tables",
    "scoring.mode_table": "scoring.tables.mode_table",
    "scoring.mos": "scoring.evaluators",
    "scoring.pareto": "scoring.measures.pareto",
    "scoring.quality": "scoring.measures.quality",
    "scoring.recogniser": "scoring.evaluators",
    "scoring.report": "scoring.tables.report",
    "scoring.same_audio": "scoring.measures.same_audio",
    "scoring.speaker": "scoring.measures.speaker",
    "scoring.strategy_table": "scoring.tables.strategy_table",
    "scoring.tuning_table": "scoring.tables.tuning_table",
    "scoring.untranscribed": "scoring.measures.untranscribed",
    "scoring.voice": "scoring.evaluators",
    "scoring.waveform": "data.waveform",
    "scoring.words": "scoring.measures.words",
    "semantic": "tokenizers.semantic",
    "semantic.files": "tokenizers.semantic",
    "semantic.jobs": "data.encoding",
    "semantic.token_dir": "data.token_dir",
    "speaker_prompt": "data.speaker_prompt",
    "speech": "inference.speech",
    "speech_jobs": "inference.model_ref",
    "stream": "inference.streaming",
    "streams": "data.streams",
    "sweep": "inference.sweep",
    "tasks.bpe": "tokenizers.text.bpe",
    "tasks.checks": "data.inputs.checks",
    "tasks.facts": "data.inputs.facts",
    "tasks.inputs": "data.inputs",
    "text": "tokenizers.text.tokens",
    "text_cleaners": "tokenizers.text.cleaners",
    "text_gain": "model.text_gain",
    "torchaudio_shim": "storage.torchaudio_shim",
    "transformer": "model.transformer",
    "tuning_set": "tuning.development_set",
}


def new_name(name: str) -> str | None:
    """The name that a module has now, or None for one that has not moved.

    Args:
        name: its former full name.

    Returns:
        The full name.

    >>> new_name("espnet_ext.codec.world_vq")
    'espnet_ext.tokenizers.codec.world_vq'
    """
    former, inner = name.removeprefix(PACKAGE), ""
    while name.startswith(PACKAGE) and former:
        if former in MOVED:
            return f"{PACKAGE}{MOVED[former]}{inner}"
        former, _, last = former.rpartition(".")
        inner = f".{last}{inner}"
    return None


class MovedModules:
    """Finds a module under its former name and hands out the module itself, with a DeprecationWarning."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """What Python asks for a module that nobody else has found.

        Args:
            name: full name of the module.
            path: of its package.
            target: a module that is loaded again.

        Returns:
            How it is loaded; None for a module that has not moved.
        """
        return None if new_name(name) is None else ModuleSpec(name, MovedModules)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """Python's own empty module, which `exec_module` exchanges."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Put the module of the new name in the place of an empty one.

        Args:
            module: the empty one.
        """
        name = new_name(module.__name__)
        assert name is not None, module.__name__
        warnings.warn(f"{module.__name__} is {name} now", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(name)


sys.meta_path.insert(0, MovedModules)
