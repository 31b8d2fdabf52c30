"""The stages: ESPnet3's own, told about the task's model and its data before they begin."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from espnet3.systems.base.system import BaseSystem
from omegaconf import DictConfig, OmegaConf
from src.espnet2_config import changed, espnet3_config

from espnet_ext.data.inputs.lengths import speech_limits, training_lengths
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tasks.codec_lm import inputs_of

# what a model of text is told besides where its options are silent
DEFAULTS: dict[str, Any] = {"bpemodel": None, "semantic_info": None, "crop_sec": 0.0, "join_prompt": 0.0}
DEFAULTS |= {"prompt_sec": 3.0, "numbers": "auto"}


def complete(config: DictConfig, plain: dict[str, Any], trains: bool = False) -> None:
    """Put in what ESPnet3 reads: the parts of `train_config` in its words, tokens and codec of the data, lengths.

    Args:
        config: training configuration, changed in place.
        plain: what it was at first.
        trains: whether statistics are there, and tokenizers are copied into the experiment.

    Raises:
        FileNotFoundError: if stage create_dataset has not made tokens and codec.
        UserError: naming an option that is wrong.
    """
    source = changed(read_yaml(Path(plain["train_config"]), "train_config"), plain.get("train_args") or {})
    parts = espnet3_config(source, plain["stats_dir"])
    options = {**DEFAULTS, **parts["model"], **{name: value for name, value in plain["model"].items() if value}}
    inputs = inputs_of(Namespace(**options, output_dir=plain["exp_dir"]))
    inputs.check()
    facts = inputs.facts
    if trains:
        inputs.keep()
        options |= _lengths(plain, inputs)
    options |= facts
    config.model = options
    config.dataset.preprocessor = {"_target_": "src.preprocess.Preprocessor", **options}
    for name in ("optimizer", "scheduler", "scheduler_interval", "seed", "best_model_criterion", "dataloader"):
        config[name] = parts[name]
    config.trainer = {**plain["trainer"], **parts["trainer"]}
    config.train_config = Path(plain["train_config"]).name  # what is kept and packed names no place of this machine


def _lengths(plain: dict[str, Any], inputs: Any) -> dict[str, Any]:
    """What decoding must know of the training set's lengths, as ESPnet2's training keeps it in config.yaml."""
    shapes = [f"{plain['stats_dir']}/train/{name}_shape" for name in ("codes", "text")]
    lengths = training_lengths(shapes, "text")
    tables = [f"{one['data_src_args']['directory']}/codes.scp" for one in plain["dataset"]["train"]]
    limits = speech_limits(tables, inputs.spec, lengths.most, bool(inputs.codec.get("deduplicate", False)))
    return {"frames_per_token": lengths.frames_per_token, "longest": lengths.longest, "speech_limits": limits}


def link_averages(config: DictConfig) -> None:
    """Give every average of checkpoints the name that ESPnet2 gives it, which all our commands look for."""
    folder = Path(config.exp_dir)
    for monitor, _, _ in config.best_model_criterion:
        name = monitor.replace("/", ".")
        made = sorted(folder.glob(f"{name}.ave_*best.pth"), key=lambda path: path.stat().st_mtime)
        if made:
            link = folder / f"{name}.ave.pth"
            link.unlink(missing_ok=True)
            link.symlink_to(made[-1].name)


class CodecLMSystem(BaseSystem):
    """A codec language model: ESPnet3's stages with the task of `espnet_ext`."""

    def __init__(self, training_config: DictConfig | None = None, **configs: Any) -> None:
        self._asked: Any = None if training_config is None else OmegaConf.to_container(training_config, resolve=True)
        super().__init__(training_config=training_config, **configs)

    def collect_stats(self, *args: Any, **kwargs: Any) -> None:
        """Lengths of all utterances."""
        self._reject_stage_args("collect_stats", args, kwargs)
        complete(self.training_config, self._asked)
        super().collect_stats()

    def train(self, *args: Any, **kwargs: Any) -> None:
        """The model, and the average of its best epochs."""
        self._reject_stage_args("train", args, kwargs)
        complete(self.training_config, self._asked, trains=True)
        super().train()
        link_averages(self.training_config)

    def pack_model(self, *args: Any, **kwargs: Any) -> Any:
        """A directory that speaks by itself."""
        self._reject_stage_args("pack_model", args, kwargs)
        complete(self.training_config, self._asked)
        return super().pack_model()
