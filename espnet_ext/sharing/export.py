"""An experiment as one can share it: weights as safetensors, nothing that could run, nobody's paths."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from espnet_ext.data.inputs import CODEC_DIRECTORY, SEMANTIC_DIRECTORY
from espnet_ext.errors import UserError
from espnet_ext.decoding import strategies
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.inference.decode_yaml import FOLDER, PREFIX, read_options, yamls_of
from espnet_ext.inference.experiment import Experiment
from espnet_ext.inference.requests import default_mode, modes_of
from espnet_ext.registries import modes
from espnet_ext.storage.atomic import atomic_dir
from espnet_ext.storage.checkpoint import averaged_model_file, read_weights
from espnet_ext.storage.tensor_files import SUFFIX, in_fewer_bytes, write_tensors
from espnet_ext.storage.yaml_files import read_yaml, without_paths
from espnet_ext.tokenizers.codec import codec_files
from espnet_ext.tokenizers.semantic import semantic_files
from espnet_ext.tokenizers.text.bpe import BPE_NAME
from espnet_ext.tokenizers.text.tokens import TextSplitter, read_token_list

LEFT_OUT = (  # of the machine and of one run; the data and shape files besides
    *("config", "output_dir", "init_param", "init_from", "pretrain_path", "deepspeed_config"),
    *("dist_init_method", "dist_master_addr", "wandb_project", "wandb_id", "wandb_entity", "wandb_name"),
)

def export(exp: Path, output_dir: Path, model_file: str | None = None, dtype: str = "float32") -> None:
    """Write an experiment, all that speaking and `--init_from` need of it, into a new directory.

    Args:
        exp: experiment directory.
        output_dir: directory to write.
        model_file: weights inside of `exp`; None for the average of the best epochs, under whose name they are written.
        dtype: of the stored weights, one of `DTYPES`; in fewer bytes the codes are not the very same.

    Raises:
        FileNotFoundError: if a file of the experiment is missing.
        UserError: if files of it do not fit each other, or there is something in `output_dir`.
    """
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(f"output_dir must be a new directory, got {output_dir}, which is there")
    experiment = Experiment.read(exp, model_file)
    corelm = type(experiment.load_corelm())  # what does not fit config.yaml is not shared
    source = exp / experiment.model_file
    with atomic_dir(output_dir) as place:
        config = _config(experiment)
        _write_yaml(place / "config.yaml", config)
        stored = in_fewer_bytes(read_weights(source), dtype)
        write_tensors(place / Path(averaged_model_file(config)).with_suffix(SUFFIX), stored, source)
        if not experiment.says_units:
            experiment.load_codec()
            codec_files.export(exp / CODEC_DIRECTORY, place / CODEC_DIRECTORY)
        if experiment.says_units or experiment.args.semantic_info is not None:
            experiment.semantic_info()
            semantic_files.export(exp / SEMANTIC_DIRECTORY, place / SEMANTIC_DIRECTORY)
        if experiment.args.bpemodel is not None:
            shutil.copyfile(experiment.args.bpemodel, place / BPE_NAME)
            TextSplitter("bpe", place / BPE_NAME)  # a link, or config.yaml, may have named any file of this machine
        kind = next((modes[name].options for name in modes_of(corelm)), DecodeOptions)
        for path in yamls_of(exp, strategies if default_mode(corelm) else ()):
            read_options(path, path.stem.removeprefix(PREFIX), kind)  # likewise
            (place / FOLDER).mkdir(exist_ok=True)
            _write_yaml(place / FOLDER / path.name, read_yaml(path, "decode yaml"))  # its remarks may name places


def _config(experiment: Experiment) -> dict[str, Any]:
    """Content of the config.yaml, without what is of the machine."""
    content = read_yaml(experiment.directory / "config.yaml", "config.yaml")
    tokens = content.get("token_list")  # among them may be a slash
    kept = {
        name: without_paths(value)
        for name, value in content.items()
        if name not in LEFT_OUT and not name.endswith(("_path_and_name_and_type", "_shape_file"))
    }
    bpe = BPE_NAME if content.get("bpemodel") is not None else None
    tokens = read_token_list(Path(tokens)) if isinstance(tokens, str) else tokens
    return {**kept, "token_list": tokens, "bpemodel": bpe}


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
