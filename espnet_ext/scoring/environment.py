"""Versions and commit that a result was made with."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable

from espnet_ext.scoring.evaluators import KINDS
from espnet_ext.scoring.evaluators.evaluator import Choice


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} not installed"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def environment(evaluators: Iterable[Choice] = ()) -> dict[str, str]:
    """Date, versions and commit; the commit is that of the current directory's repository.

    Args:
        evaluators: what listened.

    Returns:
        Name → value, in the order of ESPnet's RESULTS.md.
    """
    versions: dict[str, str] = {}
    for choice in evaluators:
        name = KINDS[choice.kind].label
        versions[name] = ", ".join(filter(None, [versions.get(name), choice.label()]))
    commit = _git("rev-parse", "HEAD")
    changed = ", with uncommitted changes" if commit and _git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python version": platform.python_version(),
        "espnet version": _version("espnet"),
        "pytorch version": _version("torch"),
        **versions,
        "Git hash": f"{commit or 'not in a repository'}{changed}",
        "Commit date": _git("log", "-1", "--format=%cI") or "–",
    }
