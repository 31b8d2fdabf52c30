"""Throughput and memory of `codec_tokens` on two corpora of made-up speech, one ten times longer than the other.

python benchmarks/tokenization.py --out benchmarks/results/tokenization_cpu
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from published import publish

from espnet_ext.bin import run
from espnet_ext.data.datadir import write_data_dir
from espnet_ext.errors import UserError

CODECS = {
    "world_vq": (16000, []),
    "lyra": (16000, []),  # downloads its weights, and needs its extra
    "encodec": (24000, ["--codec_conf", "pretrained=false"]),  # random weights cost what trained ones cost
}
LENGTHS = (3.0, 5.0, 6.0, 8.0, 13.0)  # seconds of the utterances, about LibriTTS's


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, without suffix: .json and .md are written")
    parser.add_argument("--minutes", type=float, default=6.0, help="length of the shorter corpus")
    parser.add_argument("--factor", type=int, default=10, help="how many times longer the other one is")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    parser.add_argument("--codecs", nargs="+", default=["world_vq", "encodec"], choices=list(CODECS))
    return parser


def speech(seconds: float, rate_hz: int, seed: int) -> np.ndarray:
    """Something like a voice: harmonics of a wandering pitch, louder and softer, and noise; (samples,)."""
    rng = np.random.default_rng(seed)
    clock = np.arange(int(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * (110 * clock + 8 * np.sin(2 * np.pi * 0.7 * clock + rng.uniform(0, 6)))
    tone = sum(np.sin(k * phase) / k for k in range(1, 40))
    return 0.1 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * clock)) + 0.01 * rng.standard_normal(len(clock))


def make_corpus(folder: Path, rate_hz: int, minutes: float, name: str) -> None:
    """Write a data directory; one recording per length, every utterance a file of its own."""
    originals = []
    for seed, seconds in enumerate(LENGTHS):
        originals.append(folder / f"{rate_hz}-{seed}.wav")
        if not originals[-1].is_file():
            soundfile.write(originals[-1], speech(seconds, rate_hz, seed), rate_hz)
    wavs: dict[str, Path] = {}
    (folder / f"{name}.wav").mkdir()
    for number in range(round(60 * minutes / sum(LENGTHS)) * len(LENGTHS)):
        wavs[f"s-{number:06d}"] = folder / f"{name}.wav" / f"{number:06d}.wav"
        shutil.copyfile(originals[number % len(LENGTHS)], wavs[f"s-{number:06d}"])
    write_data_dir(folder / name, wavs, dict.fromkeys(wavs, "words"), dict.fromkeys(wavs, "s"))


def resident_bytes(process: psutil.Process) -> tuple[int, int]:
    """Memory of the command, and of the largest of its workers."""
    own, workers = process.memory_info().rss, [0]
    for child in process.children(recursive=True):
        try:
            workers.append(child.memory_info().rss)
        except psutil.Error:
            continue
    return own, max(workers)


def measured(line: list[str], folder: Path) -> dict[str, float]:
    """Run a command and watch its memory: seconds, MiB of the command, MiB of its largest worker."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started, peak = time.perf_counter(), [0, 0]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", *line], cwd=folder, env=environment, stdout=log, stderr=log)
        ended = threading.Event()
        watched = psutil.Process(process.pid)

        def watch() -> None:
            while not ended.wait(0.1):
                try:
                    peak[:] = [max(pair) for pair in zip(peak, resident_bytes(watched), strict=True)]
                except psutil.Error:
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = process.wait()
        ended.set()
        watcher.join()
    if status:
        raise UserError(f"the command must succeed: {' '.join(line)}: {(folder / 'log').read_text()[-500:]}")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "driver_mib": peak[0] / 2**20, "worker_mib": peak[1] / 2**20}


def measure_codec(name: str, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Make a codec, tokenize the short and the long corpus with one process and with several."""
    rate_hz, options = CODECS[name]
    rows = []
    for minutes, size in ((args.minutes, "short"), (args.minutes * args.factor, "long")):
        make_corpus(folder, rate_hz, minutes, f"{name}-{size}")
    scp = folder / f"{name}-short" / "wav.scp"
    measured(["espnet_ext.bin.codec_fit", "--codec", name, *options, "--wav_scp", str(scp), "--out", name], folder)
    for size, nj in (("short", 1), ("short", args.nj), ("long", args.nj)):
        out = f"{name}-{size}-{nj}"
        line = ["espnet_ext.bin.codec_tokens", "--codec_info", f"{name}/codec_info.yaml"]
        line += ["--data_dir", f"{name}-{size}", "--out", out, "--nj", str(nj)]
        lengths = [soundfile.info(path).duration for path in sorted((folder / f"{name}-{size}.wav").iterdir())]
        cost = measured(line, folder)
        row = {"codec": name, "utterances": len(lengths), "audio_minutes": sum(lengths) / 60, "nj": nj, **cost}
        row["times_real_time"] = sum(lengths) / cost["seconds"]
        logging.info("%s", row)
        rows.append(row)
        shutil.rmtree(folder / out)
    return rows


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Tokenization on the CPU",
        "",
        f"`{result['command']}` on {result['processor']} ({result['cores']} cores), {result['date']}, "
        f"Python {result['python']}, torch {result['torch']}. Whole command, start and end included. "
        "Memory is the peak of the resident set, of the command itself and of its largest worker process."
        + (" EnCodec has random weights." if any(row["codec"] == "encodec" for row in result["rows"]) else ""),
        "",
        "| codec | utterances | audio, min | nj | seconds | × real time | command, MiB | worker, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        cells = [row["codec"], row["utterances"], f"{row['audio_minutes']:.1f}", row["nj"], f"{row['seconds']:.1f}"]
        cells += [f"{row['times_real_time']:.1f}", f"{row['driver_mib']:.0f}", f"{row['worker_mib']:.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def processor() -> str:
    """Its name, as Linux says it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Measure and write."""
    import torch

    args = get_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    result: dict[str, Any] = {
        "command": f"benchmarks/tokenization.py --minutes {args.minutes:g} --factor {args.factor} --nj {args.nj} "
        f"--codecs {' '.join(args.codecs)}",
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rows": [],
    }
    for name in args.codecs:
        with tempfile.TemporaryDirectory(prefix="tokenization") as folder:
            result["rows"] += measure_codec(name, args, Path(folder))
    publish(args.out, result, page(result))
    logging.info("%s", args.out.with_suffix(".md"))


if __name__ == "__main__":
    run(main)
