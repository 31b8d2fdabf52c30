"""What config.yaml keeps of the tokenizers of the audio: name, fingerprint, spec, de-duplication."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.codec import read_codec_info
from espnet_ext.tokenizers.semantic import INFO_NAME as SEMANTIC_INFO_NAME
from espnet_ext.tokenizers.semantic import read_semantic_info

Facts = dict[str, Any]


def codec_facts(args: argparse.Namespace) -> Facts:
    """Facts of what made the codes: a codec, or a semantic tokenizer for a model whose codes are units.

    Args:
        args: parsed options; `codec_info` is a file, or these facts themselves in a config.yaml.

    Returns:
        The facts.

    Raises:
        UserError: if there is no codec.
    """
    if args.codec_info is None:
        raise UserError("codec_info must be the codec_info.yaml of the codes, got none")
    if not isinstance(args.codec_info, str):
        return dict(args.codec_info)
    if makes_units(args.codec_info):
        return _semantic_facts(args.codec_info)
    info = read_codec_info(args.codec_info)
    return {"codec": info.name, "fingerprint": info.fingerprint, "spec": asdict(info.spec)}


def semantic_facts(args: argparse.Namespace) -> Facts:
    """Facts of the semantic tokenizer beside the codec.

    Args:
        args: parsed options; `semantic_info` is a file, or these facts themselves in a config.yaml.

    Returns:
        The facts.

    Raises:
        UserError: if there is no semantic tokenizer.
    """
    if args.semantic_info is None:
        raise UserError(
            f"semantic_info must be the semantic_info.yaml of the units with corelm {args.corelm}, got none"
        )
    return _semantic_facts(args.semantic_info) if isinstance(args.semantic_info, str) else dict(args.semantic_info)


def makes_units(path: str) -> bool:
    """Whether a `codec_info` is the file of a semantic tokenizer."""
    return Path(path).name == SEMANTIC_INFO_NAME


def _semantic_facts(path: str) -> Facts:
    info = read_semantic_info(path)
    return {
        "tokenizer": info.name,
        "fingerprint": info.fingerprint,
        "spec": asdict(info.spec),
        "deduplicate": info.deduplicate,
    }


def spec_of(facts: Facts) -> CodecSpec:
    """The part of the facts that a model needs."""
    return CodecSpec(**facts["spec"])
