"""Results as files: JSON for machines, and the page that people read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from espnet_ext.storage.atomic import atomic_path


def publish(out: Path, result: dict[str, Any], page: str, indent: int = 1) -> None:
    """Write `out`.json and `out`.md.

    Args:
        out: path without suffix; one that it has is replaced.
        result: what was found.
        page: the same as Markdown.
        indent: of the JSON.
    """
    for suffix, content in ((".json", json.dumps(result, indent=indent) + "\n"), (".md", page)):
        with atomic_path(out.with_suffix(suffix)) as temporary:
            temporary.write_text(content, encoding="utf-8")
