"""Experiments: config.yaml, weights, tokenizers and decode yamls, and whether they fit each other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from espnet_ext.data.inputs import CODEC_DIRECTORY, SEMANTIC_DIRECTORY
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.doctor.checkup import Checkup
from espnet_ext.inference.decode_yaml import FOLDER, PREFIX, read_options
from espnet_ext.inference.experiment import Experiment, check_fingerprint
from espnet_ext.inference.requests import modes_of
from espnet_ext.registries import modes
from espnet_ext.model.core_lm import CoreLM
from espnet_ext.tokenizers.codec import read_codec_info


def is_experiment(directory: Path) -> bool:
    """Whether a training has written there, as far as the names of the files tell."""
    made = (CODEC_DIRECTORY, SEMANTIC_DIRECTORY, "checkpoint.pth")
    return (directory / "config.yaml").is_file() and any((directory / name).exists() for name in made)


def check_experiment(checkup: Checkup, directory: Path) -> None:
    """Load what decoding loads.

    Args:
        checkup: gets what is found.
        directory: of the experiment.
    """
    experiment = checkup.ask("experiments", directory, partial(Experiment.read, directory))
    if experiment is None:
        return
    corelm = checkup.ask("models", directory, experiment.load_corelm)
    checkup.ask("tokenizers of experiments", directory, partial(_check_tokenizers, experiment))
    for path in sorted((directory / FOLDER).glob(f"{PREFIX}*.yaml")):
        checkup.ask("decode yamls", path, partial(_check_yaml, path, corelm))


def _check_tokenizers(experiment: Experiment) -> None:
    if not experiment.says_units:
        directory = experiment.directory / CODEC_DIRECTORY
        check_fingerprint(directory, "codec", experiment.args.codec_info, read_codec_info(directory).fingerprint)
    if experiment.says_units or experiment.args.semantic_info is not None:
        experiment.semantic_info()


def _check_yaml(path: Path, corelm: CoreLM | None) -> None:
    names = [] if corelm is None else modes_of(type(corelm))
    kind = modes[names[0]].options if names else DecodeOptions
    options = read_options(path, path.stem.removeprefix(PREFIX), kind)
    if corelm is not None:
        options.check(corelm)
