"""What config.yaml keeps of the tokenizers of the audio: name, fingerprint, spec, de-duplication."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.codec import codec_files
from espnet_ext.tokenizers.description import TokenizerFiles
from espnet_ext.tokenizers.semantic import semantic_files

Facts = dict[str, Any]


def read_facts(option: str, given: str | Mapping[str, Any] | None, whose: str) -> Facts:
    """Facts of a codec or of a semantic tokenizer.

    Args:
        option: "codec_info" or "semantic_info"; the former may describe a semantic tokenizer whose units are the codes.
        given: a file, or these facts themselves in a config.yaml.
        whose: what it describes, for errors.

    Returns:
        The facts.

    Raises:
        UserError: if nothing is given.
    """
    if given is None:
        raise UserError(f"{option} must be the {option}.yaml of the {whose}, got none")
    if not isinstance(given, str):
        return dict(given)
    files = files_of(option, given)
    info = files.read(given)
    facts = {files.key: info.name, "fingerprint": info.fingerprint, "spec": asdict(info.spec)}
    return {**facts, "deduplicate": info.deduplicate} if files.has_deduplicate else facts


def files_of(option: str, path: str) -> TokenizerFiles[Any]:
    """The kind of tokenizer that the file of an option describes."""
    units = option == "semantic_info" or Path(path).name == semantic_files.file
    return semantic_files if units else codec_files


def spec_of(facts: Facts) -> CodecSpec:
    """The part of the facts that a model needs; a UserError where it is not complete."""
    try:
        return CodecSpec(**facts["spec"])
    except (TypeError, KeyError):
        names = [field.name for field in fields(CodecSpec)]
        raise UserError(f"spec must have {names}, got {str(facts.get('spec'))[:100]}") from None
