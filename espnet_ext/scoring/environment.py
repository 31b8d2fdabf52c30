"""Versions and commit that a result was made with."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess


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


def environment() -> dict[str, str]:
    """Date, versions and commit; the commit is that of the current directory's repository.

    Returns:
        Name → value, in the order of ESPnet's RESULTS.md.
    """
    commit = _git("rev-parse", "HEAD")
    changed = ", with uncommitted changes" if commit and _git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python version": platform.python_version(),
        "espnet version": _version("espnet"),
        "pytorch version": _version("torch"),
        "recogniser": _version("pocketsphinx"),
        "speaker encoder": _version("Resemblyzer"),
        "Git hash": f"{commit or 'not in a repository'}{changed}",
        "Commit date": _git("log", "-1", "--format=%cI") or "–",
    }
