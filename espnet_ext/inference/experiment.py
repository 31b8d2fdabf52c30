"""What training wrote, by the directory: config.yaml, weights, and the tokenizers of the audio."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import nn

from espnet_ext.data.inputs import CODEC_DIRECTORY, SEMANTIC_DIRECTORY, Inputs, input_kinds
from espnet_ext.data.inputs.facts import spec_of
from espnet_ext.decoding import SpeechLimits
from espnet_ext.errors import UserError
from espnet_ext.model.build import ModelOptions
from espnet_ext.model.core_lm import CoreLM
from espnet_ext.options import check_number
from espnet_ext.storage.checkpoint import averaged_model_file, check_weights, read_weights, weights_file
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tokenizers.codec import INFO_NAME, Codec, load_codec, read_codec_info
from espnet_ext.tokenizers.description import Description
from espnet_ext.tokenizers.semantic import SemanticTokenizer, load_semantic, read_semantic_info
from espnet_ext.tokenizers.text.bpe import bpe_of_experiment

PREFIX = "corelm."  # of the weights' names
MOST_FRAMES = 1024  # of a step
TEXTS = ("corelm", "primary", "token_type", "cleaner")
CONFS = ("corelm_conf", "primary_conf", "local_conf")


@dataclass(frozen=True)
class Experiment:
    """An experiment directory whose config.yaml has been read.

    Attributes:
        directory: of the experiment.
        args: options of the training.
        model_file: name of the weights inside of the directory.
    """

    directory: Path
    args: Namespace
    model_file: str

    @classmethod
    def read(cls, directory: Path | str, model_file: str | None = None) -> Experiment:
        """Read the config.yaml.

        Args:
            directory: an experiment directory.
            model_file: name of the weights inside of it; None for the average that config.yaml's first
                `best_model_criterion` chose, as a checkpoint or as safetensors.

        Returns:
            The experiment.

        Raises:
            FileNotFoundError: if there is no config.yaml.
            UserError: if it is not one that codec_lm_train wrote, or both kinds of weights are there.
        """
        directory = Path(directory)
        config = directory / "config.yaml"
        content = read_yaml(config, "config.yaml")
        if not isinstance(content.get("codec_info"), dict):
            raise UserError(f"{config} must be a config.yaml written by codec_lm_train")
        with _naming(config):
            _check_kinds(content)
            chosen = model_file or weights_file(directory, averaged_model_file(content))
        args = Namespace(**{"semantic_info": None, **content, "bpemodel": bpe_of_experiment(directory, content.get("bpemodel"))})
        return cls(directory, args, chosen)

    @cached_property
    def inputs(self) -> Inputs:
        """What the model is given."""
        return input_kinds[ModelOptions.of(self.args).reads](self.args)

    @property
    def says_units(self) -> bool:
        """Whether the model's codes are semantic units, which no codec makes audible."""
        return "tokenizer" in self.args.codec_info

    def load_codec(self) -> Codec:
        """The codec that makes speech of the model's codes.

        Returns:
            The codec.

        Raises:
            FileNotFoundError: if a file of it is missing.
            UserError: if it is not the codec of the training.
        """
        directory = self.directory / CODEC_DIRECTORY
        check_fingerprint(directory, "codec", self.args.codec_info, read_codec_info(directory).fingerprint)
        return load_codec(directory)

    def semantic_info(self) -> Description:
        """The semantic tokenizer whose units the model reads or says.

        Returns:
            Its description.

        Raises:
            FileNotFoundError: if it is missing.
            UserError: if it is not the tokenizer of the training.
        """
        facts = self.args.codec_info if self.says_units else getattr(self.args, "semantic_info", None)
        if not isinstance(facts, dict):
            raise UserError(f"exp must be an experiment with a semantic tokenizer, got {self.directory} without")
        directory = self.directory / SEMANTIC_DIRECTORY
        info = read_semantic_info(directory)
        check_fingerprint(directory, "semantic tokenizer", facts, info.fingerprint)
        return info

    def load_semantic(self) -> SemanticTokenizer:
        """The semantic tokenizer, with its weights."""
        return load_semantic(self.directory / SEMANTIC_DIRECTORY)

    def check_says(self, info: Description, whose: Path) -> None:
        """Refuse to let this model speak for one that reads other units.

        Args:
            info: tokenizer of the units.
            whose: experiment directory of the model that reads them.

        Raises:
            UserError: naming both tokenizers, if they differ.
        """
        if not self.says_units:
            raise UserError(
                f"text_to_semantic must be a model that says units, got {self.directory}, which says codes"
            )
        own = self.semantic_info()
        if (own.fingerprint, own.deduplicate) != (info.fingerprint, info.deduplicate):
            told = [f"{one.fingerprint[:12]}… (deduplicate: {str(one.deduplicate).lower()})" for one in (info, own)]
            raise UserError(
                f"text_to_semantic must say units of semantic tokenizer {told[0]} as {whose} reads, "
                f"got {self.directory} with {told[1]}"
            )

    def load_corelm(self) -> CoreLM:
        """The language model with its weights.

        Returns:
            The model, in training mode on the CPU.

        Raises:
            FileNotFoundError: if the weights are missing.
            UserError: if they are not those of such a model.
        """
        checkpoint = self.directory / self.model_file
        if not checkpoint.is_file():
            weights = [path.name for path in self.directory.glob("*.pth") if path.is_file()]
            there = sorted(name for name in weights if name != "checkpoint.pth")
            choice = f"it may be one of {there}" if there else "no epoch of it has finished"
            raise FileNotFoundError(f"model_file not found: {checkpoint}; where a training has not finished, {choice}")
        state = read_weights(checkpoint)
        with _naming(self.directory / "config.yaml"):
            with suppress(NotImplementedError, RuntimeError), torch.device("meta"):  # of a plug-in that needs numbers
                _check_fit(self._build(), state, checkpoint)  # before memory is taken for what config.yaml says
            corelm = self._build()
        _check_fit(corelm, state, checkpoint).load_state_dict(state)
        return corelm

    def _build(self) -> CoreLM:
        return ModelOptions.of(self.args).complete().build(self.inputs.spec, self.inputs.vocabulary)


@contextmanager
def _naming(config: Path) -> Iterator[None]:
    """Name the file that an error is about, where the error does not."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(config.parent) in str(error) else f"{error} (in {config})") from None


def _check_kinds(content: Mapping[str, Any]) -> None:
    """Refuse values of other kinds than codec_lm_train writes, as far as a model is made of them."""
    for name in TEXTS:
        if not isinstance(content.get(name), str):
            raise UserError(f"{name} must be a text, got {_short(content.get(name))}")
    for name in ("token_list", "local"):
        if name not in content:
            raise UserError(f"{name} must be there")
    for name in CONFS:
        if not isinstance(content.get(name), dict):
            raise UserError(f"{name} must be names and values, got {_short(content.get(name))}")
    if not isinstance(content.get("parts", {}), dict):  # older versions had none
        raise UserError(f"parts must be names and their options, got {_short(content['parts'])}")
    for name in ("bpemodel", "g2p"):  # the first version had no g2p
        if name in content and not isinstance(content[name], str | NoneType):
            raise UserError(f"{name} must be a text, got {_short(content[name])}")
    check_number("frame_stacking_factor", content.get("frame_stacking_factor"), 1, MOST_FRAMES, whole=True)
    check_number("prompt_sec", content.get("prompt_sec"), least=0)
    for name in ("frames_per_token", "longest"):
        if content.get(name) is not None:
            check_number(name, content[name], least=0, whole=name == "longest")
    SpeechLimits.of(content.get("speech_limits"))
    for option in ("codec_info", "semantic_info"):
        facts = content.get(option)
        if facts is not None and not (isinstance(facts, dict) and isinstance(facts.get("fingerprint"), str)):
            raise UserError(f"{option} must be facts with a fingerprint, got {_short(facts)}")
        if facts is not None:
            spec_of(facts)


def _short(value: object) -> str:
    return ascii(value)[:100]


def _check_fit(corelm: CoreLM, state: dict[str, Any], checkpoint: Path) -> nn.Module:
    """The model under the names that the trainer gives to its weights, if these fit it."""
    _check_depth(corelm, state, checkpoint)
    _check_residual(corelm, state, checkpoint)
    trained = nn.ModuleDict({PREFIX.removesuffix("."): corelm})
    check_weights(trained, state, checkpoint)
    return trained


def check_fingerprint(directory: Path, what: str, facts: Mapping[str, Any], found: str) -> None:
    """Refuse another tokenizer than that of the training.

    Args:
        directory: of the tokenizer.
        what: kind of it, for the error.
        facts: of the training.
        found: fingerprint of the one in the directory.

    Raises:
        UserError: naming both fingerprints, if they differ.
    """
    if found != facts["fingerprint"]:
        raise UserError(f"{directory} must hold {what} {facts['fingerprint'][:12]}…, got {found[:12]}…")


def check_codec(exp: Path, data_dir: Path, scp: str = "prompt.scp", units: bool = False) -> None:
    """Refuse codes that another codec made, or nobody knows which.

    Args:
        exp: experiment directory.
        data_dir: directory with the codes.
        scp: the file in it that lists them.
        units: whether there are semantic units as well, which must be of the experiment's tokenizer.

    Raises:
        FileNotFoundError: if there are codes without a codec_info.yaml beside them.
        UserError: if both name different codecs or tokenizers.
    """
    if not (data_dir / INFO_NAME).is_file():
        if (data_dir / scp).is_file():
            raise FileNotFoundError(f"{data_dir / INFO_NAME} not found: it must tell which codec made {scp}")
        return
    expected, found = (read_codec_info(path) for path in (exp / CODEC_DIRECTORY, data_dir))
    if expected.fingerprint != found.fingerprint:
        told = [f"{info.fingerprint[:12]}… ({info.spec.num_codebooks} codebooks)" for info in (expected, found)]
        raise UserError(f"data_dir {data_dir} must hold codes of codec {told[0]} as {exp}, got {told[1]}")
    if not units:
        return
    wanted, given = (read_semantic_info(path) for path in (exp / SEMANTIC_DIRECTORY, data_dir))
    if wanted.fingerprint != given.fingerprint:
        told = [f"{info.fingerprint[:12]}… ({info.spec.codebook_size} units)" for info in (wanted, given)]
        raise UserError(f"data_dir {data_dir} must hold units of semantic tokenizer {told[0]} as {exp}, got {told[1]}")


def _check_depth(corelm: CoreLM, state: Mapping[str, Any], checkpoint: Path) -> None:
    """Say in words what the shapes of a model of another codec depth would only hint at, if they told at all."""
    books, frames = corelm.spec.num_codebooks, corelm.stacking
    wanted = f"model_file must be of a model with {books} codebooks x {frames} frames = {books * frames} codes a step"
    depth = state.get("corelm.depth")  # weights of a codec_lm have none
    if isinstance(depth, torch.Tensor) and depth.tolist() != [books, frames]:
        found = " codebooks x ".join(f"{number:g}" for number in depth.flatten().tolist())
        raise UserError(f"{wanted} as config.yaml says, got {checkpoint} with {found} frames")
    table = state.get("corelm.embedding.table.weight")
    rows, tables = corelm.spec.vocab_size, corelm.embedding.tables
    if not isinstance(table, torch.Tensor) or len(table) % rows or len(table) == tables * rows:
        return
    held = len(table) // rows
    if {held, tables} == {books, books * frames} and (held == books) == (PREFIX + "embedding.mix.weight" in state):
        kinds = ("tied", "own") if tables == books else ("own", "tied")
        raise UserError(f"frame_tables must be {kinds[1]} as {checkpoint} was trained, got {kinds[0]} in config.yaml")
    raise UserError(f"{wanted} as config.yaml says, got {checkpoint} with {held} codes a step")


def _check_residual(corelm: CoreLM, state: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse weights whose local transformers were trained to add to the parallel heads, or not to: all shapes fit."""
    for name, head in corelm.heads.items():
        trained = f"{PREFIX}heads.{name}.adds_to_parallel" in state
        if name != "parallel" and trained != head.residual:
            told = [str(kind).lower() for kind in (trained, head.residual)]
            raise UserError(f"residual of local {name} must be {told[0]} as {checkpoint} was trained, got {told[1]}")
