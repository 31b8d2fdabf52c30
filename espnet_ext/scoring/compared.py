"""Which systems are held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.scoring.measures.same_audio import content_of
from espnet_ext.scoring.system import System

SAME_CODES = {"local_speculative": "local_ar"}  # a strategy and the one whose codes it should repeat


def pairs_to_compare(systems: Sequence[System], wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names of systems whose difference is shown, the first minus the second.

    Args:
        systems: all of them.
        wanted: pairs that the user asks for; empty: every system of an experiment, and of a mode where it has modes,
            minus its parallel one (its first one, where none is parallel), and `SAME_CODES`.

    Returns:
        The pairs.

    Raises:
        UserError: if a pair names a system that there is not.
    """
    if wanted:
        names = [system.name for system in systems]
        for name in (name for pair in wanted for name in pair):
            if name not in names:
                raise UserError(f"compare must name systems among {names}, got {name!r}")
        return list(wanted)
    pairs = []
    for task in dict.fromkeys(_task(system) for system in systems if system.experiment is not None):
        models = [system for system in systems if system.experiment is not None and _task(system) == task]
        baseline = next((system for system in models if system.strategy == "parallel"), models[0])
        pairs += [(system.name, baseline.name) for system in models if system is not baseline]
        for system in models:
            same = SAME_CODES.get(system.strategy or "")
            pairs += [
                (system.name, other.name)
                for other in models
                if same is not None and other.strategy == same and other.sampling == system.sampling
            ]
    return list(dict.fromkeys(pairs))


def _task(system: System) -> tuple[Path | None, str | None]:
    """What only the strategy may differ in where systems are compared: the model, and what it was asked for."""
    asked = None if system.mode is None else system.directory.parent.name.replace(str(system.strategy), "")
    return system.experiment, asked


def same_codes(systems: Sequence[System]) -> dict[str, str]:
    """Systems whose outputs have the very codes of another one: name → name of the first one that has the same."""
    first: dict[tuple[str, ...], str] = {}
    found = {}
    for system in systems:
        if not all(run.generates and run.says_codes for run in system.runs):
            continue
        codes = tuple(content_of(run.directory / "codes.ark") for run in system.runs)
        other = first.setdefault(codes, system.name)
        if other != system.name:
            found[system.name] = other
    return found
