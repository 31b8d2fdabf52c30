"""Implementations side by side: one process each, of which one works at a time, in turns."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

from espnet_ext.options import check_choice

PEERS = ("espnet", "nemo", "moshi", "csm", "audiocraft")


@dataclass(frozen=True)
class Entry:
    """Who takes part, and how it is started.

    Attributes:
        name: for tables and ratios.
        command: of the process, without its sizes.
        sizes: of the model, and everything else that it is told.
        is_peer: whether it is none of ours.
    """

    name: str
    command: tuple[str, ...]
    sizes: Mapping[str, Any]
    is_peer: bool = False


@dataclass(frozen=True)
class Times:
    """What was measured of an entry.

    Attributes:
        cpu_seconds: per round, of process time.
        wall_seconds: per round.
        answer: all of the last answer.
        facts: of the model.
    """

    cpu_seconds: tuple[float, ...]
    wall_seconds: tuple[float, ...]
    answer: Mapping[str, Any]
    facts: Mapping[str, Any]

    def seconds(self, clock: str) -> float:
        """The median round by a clock, "cpu" or "wall"."""
        return median(self.cpu_seconds if clock == "cpu" else self.wall_seconds)


def peer(name: str, python: str | None, folder: Path, sizes: Mapping[str, Any]) -> Entry:
    """A peer as an entry.

    Args:
        name: one of `PEERS`.
        python: its interpreter; None for the one that install.sh made.
        folder: with the peers' scripts.
        sizes: of the model.

    Returns:
        The entry.

    Raises:
        UserError: if there is no such peer.
        FileNotFoundError: if it is not installed; the message says how to install it.
    """
    check_choice("peers", name, PEERS)
    script = folder / f"peer_{name}.py"
    if not script.is_file():
        raise FileNotFoundError(f"{script} not found: peers are part of the repository, see --peers_dir")
    made = folder / f".venv-{name}" / "bin" / "python"
    # ESPnet's model needs nothing but torch
    own = python or (sys.executable if name == "espnet" else str(made))
    needed = folder / ".espnet202506" / "espnet2" if name == "espnet" else Path(own)
    if not needed.exists():
        raise FileNotFoundError(f"{needed} not found: install the peer with bash {folder / 'install.sh'} {name}")
    return Entry(name, (own, str(script)), sizes, is_peer=True)


class Contestant:
    """A running process of an entry."""

    def __init__(self, entry: Entry) -> None:
        folder = str(Path(__file__).parent)  # where peers find worker.py
        threads = str(entry.sizes["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "NO_TORCH_COMPILE": "1"}
        if entry.is_peer:
            environment["PYTHONPATH"] = folder
        self.entry = entry
        self._process = subprocess.Popen(
            [*entry.command, json.dumps(dict(entry.sizes))], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.facts = self._answer()

    def _answer(self) -> dict[str, Any]:
        out: IO[str] | None = self._process.stdout
        line = out.readline() if out is not None else ""
        if not line:
            told = self._process.communicate()[1].strip().splitlines()
            raise RuntimeError(f"{self.entry.name}: {told[-1] if told else 'ended without a word'}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: object) -> dict[str, Any]:
        """The answer to a request, see `worker.serve`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def race(entries: Sequence[Entry], context: int, frames: int, rounds: int) -> dict[str, Times | str]:
    """What every entry took, or the reason why it could not take part.

    In every round each entry decodes once, so that whatever else the machine does hits all of them.

    Args:
        entries: with different names.
        context: frames in front of those that are timed.
        frames: to be timed.
        rounds: how often; the first one, which warms up, does not count.

    Returns:
        Name → times or reason.
    """
    results: dict[str, Times | str] = {}
    running: list[Contestant] = []
    answers: dict[str, list[dict[str, Any]]] = {entry.name: [] for entry in entries}
    try:
        for entry in entries:
            try:
                running.append(Contestant(entry))
            except (RuntimeError, OSError) as error:
                results[entry.name] = str(error)
                logging.warning("left out: %s", error)
        for number in range(rounds + 1):
            last = {"details": True} if number == rounds else {}
            for contestant in list(running):
                more = {} if contestant.entry.is_peer else last
                try:
                    answer = contestant.ask(context=context, frames=frames, **more)
                except RuntimeError as error:
                    results[contestant.entry.name] = str(error)
                    logging.warning("left out: %s", error)
                    running.remove(contestant)
                    continue
                if number:
                    answers[contestant.entry.name].append(answer)
    finally:
        for contestant in running:
            contestant.stop()
    for contestant in running:
        told = answers[contestant.entry.name]
        cpu, wall = (tuple(float(answer[name]) for answer in told) for name in ("cpu_seconds", "wall_seconds"))
        results[contestant.entry.name] = Times(cpu, wall, told[-1], contestant.facts)
    return results
