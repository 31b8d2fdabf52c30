"""What codecs keep of a speaker's sentences: STOI, word errors of what they make of them, and the time they take.

python benchmarks/codec_quality.py --corpus ../shared/kathleen/data --out benchmarks/results/codec_quality_kathleen
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published import publish

from espnet_ext.bin import run
from espnet_ext.data.waveform import read_resampled
from espnet_ext.errors import UserError
from espnet_ext.scoring.evaluators import recognisers
from espnet_ext.scoring.evaluators.evaluator import Choice
from espnet_ext.scoring.measures.error_rate import total, word_errors
from espnet_ext.storage.yaml_files import add_pair
from espnet_ext.tokenizers.codec import codecs, create_codec

RATE_HZ = 16000


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder of NAME.flac or NAME.wav with NAME.txt beside"
    )
    parser.add_argument("--out", type=Path, required=True, help="results, without suffix: .json and .md are written")
    parser.add_argument("--codecs", nargs="+", default=["world_vq", "lyra"], help="those of 16 kHz")
    parser.add_argument(
        "--codec_conf", action="append", default=[], metavar="CODEC.K=V", help="option of one; repeatable"
    )
    parser.add_argument("--sentences", type=int, default=100, help="held out, by a hash of their text")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the others, to learn from")
    return parser


def split(corpus: Path, held_out: int) -> tuple[list[tuple[Path, str]], list[Path]]:
    """The first recording of every held-out sentence with its text, and recordings of other sentences."""
    texts = {path: path.read_text(encoding="utf-8").strip() for path in sorted(corpus.glob("*.txt"))}
    by_hash = sorted(set(texts.values()), key=lambda text: hashlib.sha256(text.lower().encode()).hexdigest())
    sounds = {path: next(iter(sorted(corpus.glob(f"{path.stem}.[fw]*"))), None) for path in texts}
    test, learn = {}, []
    for path, text in texts.items():
        sound = sounds[path]
        if sound is not None and text in by_hash[:held_out]:
            test.setdefault(text, sound)
        elif sound is not None:
            learn.append(sound)
    if not test or not learn:
        raise UserError(f"--corpus must hold recordings of more than {held_out} sentences, got {corpus}")
    return [(sound, text) for text, sound in test.items()], learn


def measure(samples: list[np.ndarray], texts: list[str], originals: list[np.ndarray], listener: Any) -> dict[str, Any]:
    """Word error rate in percent, and the mean intelligibility against the recordings."""
    from pystoi import stoi

    hear = [listener.normalise(listener.recognise(one)) for one in samples]
    errors = total([word_errors(listener.normalise(text), heard) for text, heard in zip(texts, hear, strict=True)])
    values = [stoi(o, s[: len(o)], RATE_HZ, extended=False) for o, s in zip(originals, samples, strict=True)]
    return {"wer": 100 * errors.rate, "stoi": float(np.mean(values))}


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f"# Codecs on {result['sentences']} sentences of `{result['corpus']}`",
        "",
        f"`{result['command']}`, {result['date']}; words heard by {result['recogniser']}; real-time factor: "
        "processor seconds of encoding and decoding for a second of speech, one thread.",
        "",
        "| | bit/s | STOI | WER % | real-time factor |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        bits = f"{row['bits_per_second']:.0f}" if row["bits_per_second"] else "–"
        speed = f"{row['rtf']:.3f}" if row["rtf"] else "–"
        lines.append(f"| {row['name']} | {bits} | {row['stoi']:.3f} | {row['wer']:.1f} | {speed} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    args = get_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    conf: dict[str, Any] = {}
    for pair in args.codec_conf:
        add_pair(conf, pair, "codec_conf")
    test, learn = split(args.corpus, args.sentences)
    texts, originals = [text for _, text in test], [read_resampled(sound) for sound, _ in test]
    choice = Choice("asr", "faster_whisper")
    listener = recognisers[choice.name]()
    rows = [{"name": "recordings", "bits_per_second": 0, "rtf": 0, **measure(originals, texts, originals, listener)}]
    logging.info("%s", rows[-1])
    for name in args.codecs:
        chosen = np.random.default_rng(0).permutation(len(learn)) if codecs[name].learns else []
        waveforms, seconds = [], 0.0
        for index in chosen:
            if seconds < 60 * args.minutes:
                waveforms.append(read_resampled(learn[index]))
                seconds += len(waveforms[-1]) / RATE_HZ
        codec = create_codec(name, waveforms, 0, conf.get(name, {}))
        if codec.spec.sample_rate_hz != RATE_HZ:
            raise UserError(f"--codecs must be of {RATE_HZ} Hz, got {name} of {codec.spec.sample_rate_hz}")
        started = time.process_time()
        made = [codec.decode_utterance(codec.encode_utterance(torch.from_numpy(one))).numpy() for one in originals]
        rtf = (time.process_time() - started) * RATE_HZ / sum(map(len, originals))
        bits = codec.spec.num_codebooks * np.log2(codec.spec.codebook_size) * codec.spec.frame_rate_hz
        shape = f"{codec.spec.num_codebooks} × {codec.spec.codebook_size}"
        rows.append({"name": f"{name}, {shape}", "bits_per_second": float(bits), "rtf": rtf})
        rows[-1] |= measure(made, texts, originals, listener)
        logging.info("%s", rows[-1])
    result = {
        "command": f"benchmarks/codec_quality.py --sentences {args.sentences} --minutes {args.minutes:g} "
        f"--codecs {' '.join(args.codecs)}",
        "date": time.strftime("%Y-%m-%d"), "corpus": args.corpus.name, "sentences": len(test),
        "recogniser": choice.label(), "rows": rows,
    }  # fmt: skip
    publish(args.out, result, page(result))


if __name__ == "__main__":
    run(main)
