"""A recipe made so small that it runs from audio to scores in a minute or two, and what matters of what it made."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
SCORES = ["--score_args", "--num_bootstrap 20 --mos_utterances 1"]
SMALL = [
    "--size",
    "tiny",
    "--max_epoch",
    "1",
    "--test_sets",
    "test_unseen",
    "--codec_conf",
    "codebook_size=16",
    *SCORES,
]
OPTIONS = {
    "codec_lm1": [*SMALL, "--stacking", "2", "--decodings", "parallel", "--base_config", "", "--tune_utterances", "2"],
    "gpst1": [*SMALL, "--num_unconditional", "2", "--modes", "semantic_to_acoustic tts",
              "--semantic_conf", "num_units=16"],
}  # fmt: skip
UTTERANCES = {"train": 8, "dev": 2, "test": 1}  # of every speaker
# a model of one epoch finds no end
SHORT = {"codec_lm1": "", "gpst1": "{maxlenratio: 1.0, semantic_maxlenratio: 2.0, max_sec: 1.0}\n"}
# what takes how long, when, on what machine, by what process
NOT_COMPARED = re.compile(
    r"(^|/)(log|images|tensorboard|figures)/|\.log$|\.jobs(\.finished)?$|(^|/)(\.done|\.finished\.json|\.made\.json|stage_times\.tsv|"
    r"RESULTS\.md|TUNED\.md|report\.html|train\.log|checkpoint\.pth|\d+epoch\.pth|\.meeting\d+)$"
)
TIMES = re.compile(r"seconds|time|date|rtf|per_second|speed|_per_sec|host|cpu|git|memory|machine|environment", re.I)
LEFT = re.compile(r"\.(tmp|old)(\.|$)|(^|/)\.(running|answer|started)$|(^|/)shards/")


@dataclass(frozen=True)
class Shrunk:
    """A copy of a recipe."""

    root: Path
    model: str

    @classmethod
    def copy(cls, root: Path, model: str) -> Shrunk:
        """One in which nothing has run yet."""
        folders = ["local", "conf", *(f"egs2/mini_libritts/{part}" for part in ("corpus", "codec_lm1/local"))]
        for folder in dict.fromkeys([*folders, f"egs2/mini_libritts/{model}/local"]):
            shutil.copytree(ROOT / folder, root / folder)
        cut_corpus(root / "egs2/mini_libritts/corpus")
        made = cls(root, model)
        shutil.copy2(ROOT / "egs2/mini_libritts" / model / "run.sh", made.directory)
        if SHORT[model]:
            (made.directory / "conf").mkdir()
            (made.directory / "conf/decode_gpst.yaml").write_text(SHORT[model])
        return made

    @property
    def directory(self) -> Path:
        return self.root / "egs2/mini_libritts" / self.model

    def start(self, *options: str, limit: int | None = None) -> subprocess.Popen[str]:
        """The recipe in a session of its own; with a limit no process may write a larger file."""
        words = [str(self.directory / "run.sh"), "--python", sys.executable, *OPTIONS[self.model], *options]
        if limit is not None:
            words = ["bash", "-c", f"ulimit -f {limit}; trap '' XFSZ; exec \"$@\"", "run", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(words, env=environment, start_new_session=True, **pipes)

    def run(self, *options: str, status: int = 0, limit: int | None = None) -> str:
        """What it says; the status is that which is expected."""
        process = self.start(*options, limit=limit)
        said, _ = process.communicate(timeout=1500)
        assert process.returncode == status, said[-4000:]
        return said

    def stages(self) -> dict[str, float]:
        """Name of every stage that runs → seconds that it took."""
        (times,) = self.directory.glob("exp*/stage_times.tsv")
        return {line.split("\t")[0]: float(line.split("\t")[1]) for line in times.read_text().splitlines()}

    def files(self) -> dict[str, Path]:
        """All that it made."""
        folders = [path for name in ("data", "dump", "exp", "downloads") for path in self.directory.glob(f"{name}*")]
        return {
            str(path.relative_to(self.directory)): path
            for folder in folders
            for path in folder.rglob("*")
            if path.is_file()
        }

    def contents(self) -> dict[str, object]:
        """What every run has to make alike: file → content."""
        return {name: content(path) for name, path in self.files().items() if not NOT_COMPARED.search(name)}

    def left(self) -> list[str]:
        """Files that nobody needs any more, and locks."""
        return [name for name in self.files() if LEFT.search(name)]


def cut_corpus(corpus: Path) -> None:
    """Leave a few utterances of every speaker in the mini corpus."""
    manifest, sums = corpus / "MANIFEST.tsv", corpus / "SHA256SUMS"
    before = hashlib.sha256(manifest.read_bytes()).hexdigest()
    head, *rows = manifest.read_text().splitlines(keepends=True)
    taken = Counter[tuple[str, str]]()
    for row in rows:
        _, subset, speaker, *_ = row.split("\t")
        taken[subset, speaker] += 1
        if taken[subset, speaker] <= UTTERANCES[subset.partition("-")[0]]:
            head += row
    manifest.write_text(head)
    sums.write_text(sums.read_text().replace(before, hashlib.sha256(manifest.read_bytes()).hexdigest()))


def content(path: Path) -> object:
    """What matters of a file."""
    if path.suffix == ".pth":  # its archive has the name of a temporary file in it
        state = torch.load(path, weights_only=True, map_location="cpu")
        return hashlib.sha256(
            b"".join(name.encode() + value.numpy().tobytes() for name, value in state.items())
        ).hexdigest()
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".npz":  # whose members have the time at which they were written
        with (
            suppress(zipfile.BadZipFile, OSError, ValueError),
            np.load(path) as arrays,
        ):  # one may be damaged on purpose
            return {name: hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in arrays.files}
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_times(value: Any) -> Any:
    """JSON without what tells how long something took, when and where."""
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if not TIMES.search(name)}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def difference(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Files that differ or are missing."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def strike(process: subprocess.Popen[str], number: int, after: float) -> tuple[bool, str]:
    """Let a recipe run for a while, then end it.

    SIGKILL and Ctrl-C meet all processes at once, as loss of power and a terminal do, SIGTERM run.sh alone.

    Returns:
        Whether it still ran, and what it said.
    """
    try:
        said, _ = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        (process.send_signal if number == signal.SIGTERM else lambda one: os.killpg(process.pid, one))(number)
        said, _ = process.communicate(timeout=120)
        _, running = psutil.wait_procs(family, timeout=0.5)
        assert not [one for one in running if one.status() != psutil.STATUS_ZOMBIE], "an orphan"
        return True, said
    assert process.returncode == 0, said[-4000:]
    return False, said


class Hang(BaseException):
    """Nobody may take it for an error that was expected."""


@contextmanager
def waited(seconds: float) -> Iterator[None]:
    """The block must end in time: a signal ends it if not."""

    def late(*_: object) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
