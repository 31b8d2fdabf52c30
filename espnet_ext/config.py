"""Yaml files as mappings, or one line about why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path, name: str) -> dict[str, Any]:
    """The mapping in a yaml file; an empty file is an empty mapping.

    Args:
        path: the file.
        name: what the file is, in the words of the user's option.

    Returns:
        The mapping.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not yaml, or not a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{name} not found: {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} must be a yaml file, got {path} ({' '.join(str(error).split())})") from None
    if not isinstance(content or {}, dict):
        raise ValueError(f"{name} must hold names and values, got {path} with {type(content).__name__}")
    return content or {}
