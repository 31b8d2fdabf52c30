"""What a core LM is given, and all that training, validation and inference have to do for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from espnet_ext.codes import CodecSpec
from espnet_ext.data.inputs.facts import Facts, files_of, read_facts, spec_of
from espnet_ext.data.preprocess import Preprocess
from espnet_ext.registry import Registry
from espnet_ext.tokenizers.codec import codec_files
from espnet_ext.tokenizers.semantic import semantic_files

# of an experiment; each holds the tokenizer of its kind
CODEC_DIRECTORY, SEMANTIC_DIRECTORY = codec_files.classes.kind, semantic_files.classes.kind


class Inputs(ABC):
    """One kind of input besides the codes, made once from the options of a training or from a config.yaml.

    Args:
        args: the options.

    Attributes:
        required: names of data that every utterance has.
        optional: names of data that it may have.
    """

    required: ClassVar[tuple[str, ...]] = ("codes",)
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, args: Namespace) -> None:
        self.args = args

    @property
    @abstractmethod
    def vocabulary(self) -> int | CodecSpec:
        """The second argument of the core LM: ids of the text, or the facts of the units."""

    @property
    @abstractmethod
    def files(self) -> dict[str, str]:
        """Name of data → its file in a data directory, of all that validation reads."""

    @abstractmethod
    def preprocessor(self, train: bool) -> Preprocess:
        """What turns data as read from disk into arrays.

        Args:
            train: whether it may draw random parts.

        Returns:
            A function of the utterance's id and its data by name.
        """

    @cached_property
    def codec(self) -> Facts:
        """Facts of what made the codes: a codec, or a semantic tokenizer for a model whose codes are units."""
        return read_facts("codec_info", self.args.codec_info, "codes")

    @property
    def spec(self) -> CodecSpec:
        """Codebooks, frame rate and sample rate of the codes."""
        return spec_of(self.codec)

    @property
    def facts(self) -> dict[str, Any]:
        """What must not change when a training is continued, by its name in config.yaml."""
        return {"codec_info": self.codec}

    @property
    def frames_per_token(self) -> float | None:
        """Frames of code per token that nearly all of the training set keeps below; None if config.yaml lacks it."""
        return getattr(self.args, "frames_per_token", None)

    @property
    def longest(self) -> int | None:
        """Most tokens of a training utterance; None if config.yaml lacks it."""
        return getattr(self.args, "longest", None)

    @property
    def speech_limits(self) -> dict[str, Any] | None:
        """What no speech of the training exceeds, as `speech_limits` measures it; None if config.yaml lacks it."""
        return getattr(self.args, "speech_limits", None)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Name of data → fingerprint of the tokenizer that must have made them."""
        return {name: self.codec["fingerprint"] for name in ("codes", "prompt")}

    def complete(self, data: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        """The data files of a command, and those required ones that it does not name but that lie beside the codes.

        A recipe names what most core LMs read, and need not know the others.

        Args:
            data: path, name and type of each.

        Returns:
            The same, and what was found.
        """
        complete = list(data)
        paths, names = {Path(path) for path, _, _ in data}, {name for _, name, _ in data}
        for folder in [Path(path).parent for path, name, _ in data if name == "codes"]:
            found = {name: folder / self.files[name] for name in self.required if name not in names}
            for name, path in found.items():
                if path.is_file() and path not in paths:
                    complete.append((str(path), name, "kaldi_ark" if path.suffix == ".scp" else "text"))
        return complete

    def shapes(self, frames: int, tokens: int) -> dict[str, tuple[int, tuple[int, ...]]]:
        """What a dry run draws at random: name of data → how many ids there are, and the shape of an utterance.

        Args:
            frames: of the codes.
            tokens: of what the core LM reads.

        Returns:
            The shapes.
        """
        return {"codes": (self.spec.codebook_size, (frames, self.spec.num_codebooks))}

    def check(self) -> None:  # noqa: B027, most options need no look at each other
        """Refuse options that do not agree with each other or with the experiment directory.

        Raises:
            UserError: naming the option.
        """

    def report(self) -> None:  # noqa: B027, ids that are out of range are errors
        """Say what is worth knowing about the data."""

    def keep(self) -> None:
        """Copy what decoding needs into the experiment directory."""
        for option in ("codec_info", "semantic_info"):
            path = getattr(self.args, option)
            if isinstance(path, str):
                files = files_of(option, path)
                files.copy(path, Path(self.args.output_dir) / files.classes.kind)


input_kinds: Registry[type[Inputs]] = Registry("inputs", "espnet_ext.inputs")

register_inputs = input_kinds.register
