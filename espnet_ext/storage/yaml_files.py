"""Yaml, in files and on the command line, as mappings, or one line about why not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from espnet_ext.errors import UserError
from espnet_ext.options import parse_yaml
from espnet_ext.storage.checksums import verify

# no name of a hub, which has letters in front, no address, no token such as </s>
_PATH = re.compile(r"(?<![\w/.~<-])(?:~\w*|\.\.?)?/(?!/)\S|^//|file:/")


def without_paths(value: Any) -> Any:
    """The same values, with None for each text in which a place of some machine is named; such keys are left out.

    >>> without_paths({"seed": 0, "codec_conf": {"checkpoint": "/home/me/x.pth", "config": "kyutai/mimi"}})
    {'seed': 0, 'codec_conf': {'checkpoint': None, 'config': 'kyutai/mimi'}}
    """
    if isinstance(value, dict):
        return {key: without_paths(part) for key, part in value.items() if not _PATH.search(str(key))}
    if isinstance(value, list | tuple):
        return [without_paths(part) for part in value]
    return None if isinstance(value, str) and _PATH.search(value) else value


def read_yaml(path: Path, name: str) -> dict[str, Any]:
    """The mapping in a yaml file; an empty file is an empty mapping.

    Args:
        path: the file.
        name: what the file is, in the words of the user's option.

    Returns:
        The mapping.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is not yaml, or not a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{name} not found: {path}")
    verify(path)
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} must be a yaml file, got {path} ({' '.join(str(error).split())})") from None
    if not isinstance(content or {}, dict):
        raise UserError(f"{name} must hold names and values, got {path} with {type(content).__name__}")
    return content or {}


def add_pair(conf: dict[str, Any], pair: str, option: str) -> None:
    """Put one KEY=VALUE into the options; `merge.rate=2` is rate: 2 in the mapping merge.

    Args:
        conf: gets the value.
        pair: in the spelling of the command line.
        option: of the command line, for errors.

    Raises:
        UserError: if there is no "=", the value is not yaml, or part of an option that is no mapping is meant.
    """
    name, equals, value = pair.partition("=")
    if not equals:
        raise UserError(f"{option} must be KEY=VALUE, got {pair!r}")
    *outer, last = name.split(".")
    for key in outer:
        conf = conf.setdefault(key, {})
        if not isinstance(conf, dict):
            raise UserError(f"{option} {key} must be given once, as a whole or in parts, got {pair!r}")
    try:
        conf[last] = parse_yaml(value)
    except yaml.YAMLError:
        raise UserError(f"{option} {name} must be a yaml value, got {value!r}") from None
