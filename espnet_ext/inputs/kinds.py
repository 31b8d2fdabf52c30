"""What a core LM is given besides codes, text or semantic units, and what the task has to do for either."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from espnet_ext.codes import CodecSpec
from espnet_ext.data.joint_preprocess import JointPreprocessor
from espnet_ext.data.preprocess import CodecLMPreprocessor
from espnet_ext.data.streams import frames_within, read_silence
from espnet_ext.errors import UserError
from espnet_ext.inputs.checks import report_unknown_tokens
from espnet_ext.inputs.facts import codec_facts, makes_units, semantic_facts, spec_of
from espnet_ext.model.core_lm import corelms
from espnet_ext.options import check_number
from espnet_ext.tokenizers.codec import copy_codec
from espnet_ext.tokenizers.semantic import copy_semantic
from espnet_ext.tokenizers.text.bpe import check_bpe, copy_bpe
from espnet_ext.tokenizers.text.tokens import TextSplitter, TextTokenizer, read_token_list

CODEC_DIRECTORY = "codec"
SEMANTIC_DIRECTORY = "semantic"


class Inputs(Protocol):
    """One kind of input.

    Attributes:
        required: data that every utterance has.
    """

    required: tuple[str, ...]

    def vocabulary(self, args: argparse.Namespace) -> int | CodecSpec:
        """The second argument of the core LM: ids of the text, or the facts of the units."""

    def preprocessor(self, args: argparse.Namespace, train: bool) -> CodecLMPreprocessor | JointPreprocessor:
        """What turns data as read from disk into arrays."""

    def files(self, args: argparse.Namespace) -> dict[str, str]:
        """Name of data → its file in a data directory, of all that validation reads."""

    def complete(self, args: argparse.Namespace) -> None:
        """Put what files say into the options, so that config.yaml is complete."""

    def facts(self, args: argparse.Namespace) -> dict[str, Any]:
        """What must not change when a training is continued, by its name in config.yaml."""

    def check(self, args: argparse.Namespace) -> None:
        """Refuse options that do not agree with each other or with the experiment directory."""

    def fingerprints(self, args: argparse.Namespace) -> Mapping[str, str]:
        """Name of data → fingerprint of the tokenizer that must have made them."""

    def report(self, args: argparse.Namespace) -> None:
        """Say what is worth knowing about the data."""

    def keep(self, args: argparse.Namespace) -> None:
        """Copy what decoding needs into the experiment directory."""


class TextInputs:
    """Text, and codes that a codec made of speech, or semantic units in their place."""

    required = ("text", "codes")

    def vocabulary(self, args: argparse.Namespace) -> int:  # noqa: D102 (see Inputs)
        return len(build_tokenizer(args).tokens)

    def preprocessor(self, args: argparse.Namespace, train: bool) -> CodecLMPreprocessor:  # noqa: D102
        facts = codec_facts(args)
        spec = spec_of(facts)
        tokenizer = build_tokenizer(args)
        return CodecLMPreprocessor(tokenizer, spec, prompt_frames(args, spec), train, facts.get("deduplicate", False))

    def files(self, args: argparse.Namespace) -> dict[str, str]:  # noqa: D102
        if "tokenizer" in codec_facts(args):  # the codes are units
            return {"text": "text", "codes": "semantic.scp"}
        return {"text": "text", "codes": "codes.scp", "prompt": "prompt.scp"}

    def complete(self, args: argparse.Namespace) -> None:  # noqa: D102
        args.token_list, args.codec_info = list(build_tokenizer(args).tokens), codec_facts(args)

    def facts(self, args: argparse.Namespace) -> dict[str, Any]:  # noqa: D102
        same = {name: getattr(args, name) for name in ("token_type", "cleaner", "g2p")}
        return same | {"codec_info": codec_facts(args), "token_list": build_tokenizer(args).tokens}

    def check(self, args: argparse.Namespace) -> None:  # noqa: D102
        for name, value in (("semantic_info", None), ("crop_sec", 0.0), ("join_prompt", 0.0)):
            if getattr(args, name) != value:
                raise UserError(f"{name} must be left out with corelm {args.corelm}, got {getattr(args, name)}")
        prompt_frames(args, spec_of(codec_facts(args)))
        check_bpe(args)

    def fingerprints(self, args: argparse.Namespace) -> dict[str, str]:  # noqa: D102
        return dict.fromkeys(("codes", "prompt"), codec_facts(args)["fingerprint"])

    def report(self, args: argparse.Namespace) -> None:  # noqa: D102
        report_unknown_tokens(args, build_tokenizer(args))

    def keep(self, args: argparse.Namespace) -> None:  # noqa: D102
        output = Path(args.output_dir)
        if isinstance(args.codec_info, str):
            if makes_units(args.codec_info):
                copy_semantic(args.codec_info, output / SEMANTIC_DIRECTORY)
            else:
                copy_codec(args.codec_info, output / CODEC_DIRECTORY)
        copy_bpe(args)


class SemanticInputs:
    """Semantic units and codes of the same speech."""

    required = ("semantic", "codes")

    def vocabulary(self, args: argparse.Namespace) -> CodecSpec:  # noqa: D102 (see Inputs)
        return spec_of(semantic_facts(args))

    def preprocessor(self, args: argparse.Namespace, train: bool) -> JointPreprocessor:  # noqa: D102
        silence = None
        if train and args.join_prompt > 0:
            silence = read_silence(_folder_of("semantic", args.train_data_path_and_name_and_type))
        facts = semantic_facts(args)
        return JointPreprocessor(
            spec_of(codec_facts(args)),
            spec_of(facts),
            facts["deduplicate"],
            tuple(args.corelm_conf.get("languages") or ()),
            train=train,
            crop_sec=args.crop_sec,
            prompt_sec=args.prompt_sec,
            join_prompt=args.join_prompt if train else 0.0,
            silence=silence,
        )

    def files(self, args: argparse.Namespace) -> dict[str, str]:  # noqa: D102
        return {"semantic": "semantic.scp", "codes": "codes.scp", "language": "utt2lang"}

    def complete(self, args: argparse.Namespace) -> None:  # noqa: D102
        args.codec_info, args.semantic_info = codec_facts(args), semantic_facts(args)

    def facts(self, args: argparse.Namespace) -> dict[str, Any]:  # noqa: D102
        return {"codec_info": codec_facts(args), "semantic_info": semantic_facts(args)}

    def check(self, args: argparse.Namespace) -> None:  # noqa: D102
        if args.token_list is not None:
            raise UserError(f"token_list must be left out with corelm {args.corelm}, got {args.token_list}")
        check_number("crop_sec", args.crop_sec, least=0)
        check_number("prompt_sec", args.prompt_sec, least=0)
        check_number("join_prompt", args.join_prompt, least=0, most=1)
        spec = spec_of(codec_facts(args))
        # to the preprocessor no frames are no limit
        for name, needed in (("crop_sec", args.crop_sec > 0), ("prompt_sec", args.join_prompt > 0)):
            seconds = getattr(args, name)
            if needed and not frames_within(seconds, spec):
                reason = f" with join_prompt {args.join_prompt:g}," if name == "prompt_sec" else ""
                least = f"one codec frame, {1 / spec.frame_rate_hz:g} s,"
                raise UserError(f"{name} must be at least {least}{reason} got {seconds}")
        names = {name for _, name, _ in args.train_data_path_and_name_and_type}
        lacking = sorted({"prompt", "prompt_semantic"} - names)
        if args.join_prompt > 0 and names and lacking:
            raise UserError(f"join_prompt must be 0 without data named {lacking}, got {args.join_prompt}")
        languages = args.corelm_conf.get("languages")
        if languages and names and "language" not in names:
            raise UserError(f"corelm_conf languages must be left out without data named language, got {languages}")

    def fingerprints(self, args: argparse.Namespace) -> dict[str, str]:  # noqa: D102
        codes, units = codec_facts(args)["fingerprint"], semantic_facts(args)["fingerprint"]
        return {"codes": codes, "prompt": codes, "semantic": units, "prompt_semantic": units}

    def report(self, args: argparse.Namespace) -> None:
        """Nothing: units that are out of their vocabulary are errors."""

    def keep(self, args: argparse.Namespace) -> None:  # noqa: D102
        output = Path(args.output_dir)
        if isinstance(args.codec_info, str):
            copy_codec(args.codec_info, output / CODEC_DIRECTORY)
        if isinstance(args.semantic_info, str):
            copy_semantic(args.semantic_info, output / SEMANTIC_DIRECTORY)


KINDS: dict[str, Inputs] = {"text": TextInputs(), "semantic": SemanticInputs()}


def inputs_of(corelm: str) -> Inputs:
    """What a core LM reads, by its registered name."""
    return KINDS[corelms[corelm].reads]


def _folder_of(name: str, data: list[tuple[str, str, str]]) -> Path:
    return next((Path(path).parent for path, found, _ in data if found == name), Path())


def build_tokenizer(args: argparse.Namespace) -> TextTokenizer:
    """The tokenizer of the options `token_list`, `token_type`, `bpemodel`, `cleaner` and `g2p`.

    Args:
        args: parsed options; `token_list` is a file, or the tokens themselves in a config.yaml.

    Returns:
        The tokenizer.

    Raises:
        UserError: if there is no token list.
    """
    if args.token_list is None:
        raise UserError("token_list must be a file of text tokens, got none")
    tokens = read_token_list(Path(args.token_list)) if isinstance(args.token_list, str) else args.token_list
    bpemodel = Path(args.bpemodel) if args.bpemodel else None
    g2p = getattr(args, "g2p", "none")  # the config.yaml of the first version has none
    return TextTokenizer(TextSplitter(args.token_type, bpemodel, args.cleaner, g2p), tokens)


def prompt_frames(args: argparse.Namespace, spec: CodecSpec) -> int:
    """Longest speaker prompt in codec frames."""
    if args.prompt_sec < 0:
        raise UserError(f"prompt_sec must be at least 0, got {args.prompt_sec}")
    return round(args.prompt_sec * spec.frame_rate_hz)
