"""Time and memory of checking a corpus (stage data of egs2/own) of so many utterances, in LJSpeech's layout.

python benchmarks/corpus_check.py --folder /tmp/corpus_check --out benchmarks/results/corpus_check.md

Every utterance has a text and a file of its own with a true header, 1 to 10 s of 16 kHz, and noise in front and in the
middle: the rest is a hole in the file, which reads as silence. The header of every file is read, and the samples of the
200 that the stage decodes.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RATE_HZ = 16000


def write_corpus(root: Path, count: int) -> None:
    """The corpus; a file is a header, noise of 0.1 s, and a hole."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    (root / "wavs").mkdir(parents=True)
    with (root / "metadata.csv").open("w", encoding="utf-8") as table:
        for number in range(count):
            size = 2 * rng.randint(RATE_HZ, 10 * RATE_HZ)
            head = struct.pack(
                "<4sI4s4sIHHIIHH4sI",
                b"RIFF",
                36 + size,
                b"WAVE",
                b"fmt ",
                16,
                1,
                1,
                RATE_HZ,
                2 * RATE_HZ,
                2,
                16,
                b"data",
                size,
            )
            handle = os.open(root / "wavs" / f"u{number:06d}.wav", os.O_CREAT | os.O_WRONLY, 0o644)
            os.write(handle, head + rng.randbytes(RATE_HZ // 10))
            os.pwrite(handle, rng.randbytes(RATE_HZ // 10), (len(head) + size) // 2)
            os.ftruncate(handle, len(head) + size)
            os.close(handle)
            table.write(f"u{number:06d}|{' '.join(rng.choices(words, k=rng.randint(3, 20)))}\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, nargs="+", default=[3000, 300_000], help="sizes, ascending")
    parser.add_argument("--folder", type=Path, required=True, help="for the corpora; removed afterwards")
    parser.add_argument("--out", type=Path, required=True, help="table to write")
    args = parser.parse_args()
    rows = ["| utterances | seconds | processor seconds | peak memory |", "|---:|---:|---:|---:|"]
    for count in sorted(args.utterances):
        corpus = args.folder / str(count)
        write_corpus(corpus, count)
        command = [
            sys.executable,
            str(ROOT / "local" / "corpus_dir.py"),
            "--corpus",
            str(corpus),
            "--datadir",
            str(corpus / "data"),
        ]
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--estimate", "no"], check=True, env=environment, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the greatest child, which is this one
        rows.append(
            f"| {count} | {seconds:.1f} | {used.ru_utime + used.ru_stime:.1f} | {used.ru_maxrss / 1024:.0f} MB |"
        )
        print(rows[-1], flush=True)  # noqa: T201
        shutil.rmtree(corpus)
    args.out.write_text(f"{__doc__.splitlines()[0]}\n\n" + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
