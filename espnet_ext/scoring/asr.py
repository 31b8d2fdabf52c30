"""Words that an offline recogniser hears: PocketSphinx with its own English model, restricted to a vocabulary."""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pocketsphinx
from tqdm import tqdm

from espnet_ext.scoring.error_rate import normalise
from espnet_ext.scoring.waveform import EVALUATION_RATE_HZ, read_resampled

Key = TypeVar("Key", bound=Hashable)

# The model's own search settings stay, because nothing cheaper is as good on damaged speech and the whole takes about
# 4 % of the audio's duration. Tried on 48 synthetic sentences, clean and with noise: beams of 1e-30 save 5 %, two
# Gaussians (topn) 5-20 %, both at up to 2 points of error rate; one pass (fwdflat off) saves 15-40 % and costs a point
# on clean speech; wider beams change nothing. A smaller word insertion penalty trades insertions for deletions.
DECODER_OPTIONS = {
    "lw": 6.5,  # language weight
    "wip": 0.65,  # word insertion penalty
    "beam": 1e-48,
    "wbeam": 7e-29,
    "pbeam": 1e-48,
    "cmn": "batch",  # mean of the utterance itself, not a running one: no utterance depends on those before it
    "samprate": EVALUATION_RATE_HZ,
    "loglevel": "FATAL",
}
SHORTEST_SECONDS = 0.1  # the recogniser needs a few frames; shorter audio holds no word
CHUNK = 4  # utterances a process takes at a time: few enough for a steady progress bar

_decoder: pocketsphinx.Decoder | None = None  # of a worker process


def pronunciations(vocabulary: Iterable[str]) -> dict[str, list[str]]:
    """Dictionary lines of every word that the bundled pronouncing dictionary knows, in its order.

    Args:
        vocabulary: normalised words.

    Returns:
        Word → its lines, one per pronunciation.
    """
    wanted = set(vocabulary)
    found: dict[str, list[str]] = {}
    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    with path.open(encoding="utf-8") as dictionary:
        for line in dictionary:
            word = line.split(maxsplit=1)[0].partition("(")[0]
            if word in wanted:
                found.setdefault(word, []).append(line)
    return found


def known_words(transcripts: Iterable[str]) -> set[str]:
    """Words that the recogniser can hear when it is given these transcripts as its vocabulary."""
    return set(pronunciations(word for text in transcripts for word in normalise(text).split()))


def unknown_words(transcripts: Iterable[str]) -> dict[str, int]:
    """Words that the recogniser cannot know, and how often they occur, most frequent first.

    Args:
        transcripts: texts; their words are normalised.

    Returns:
        Word → count.
    """
    counts = Counter(word for text in transcripts for word in normalise(text).split())
    unknown = counts.keys() - pronunciations(counts).keys()
    return {word: counts[word] for word in sorted(unknown, key=lambda word: (-counts[word], word))}


def flat_unigram_arpa(words: Iterable[str]) -> str:
    """A language model in ARPA format in which every word, and the end, is equally likely.

    Args:
        words: the vocabulary.

    Returns:
        Contents of the file.
    """
    words = sorted(words)
    logprob = -math.log10(len(words) + 1)
    lines = ["\\data\\", f"ngram 1={len(words) + 2}", "", "\\1-grams:", "-99 <s>", f"{logprob:.4f} </s>"]
    return "\n".join([*lines, *(f"{logprob:.4f} {word}" for word in words), "", "\\end\\", ""])


def _write_models(folder: Path, vocabulary: Iterable[str]) -> None:
    known = pronunciations(vocabulary)
    if not known:
        raise ValueError("vocabulary must have a word of the pronouncing dictionary, got none")
    (folder / "words.dict").write_text("".join(line for lines in known.values() for line in lines), encoding="utf-8")
    (folder / "words.lm").write_text(flat_unigram_arpa(known), encoding="utf-8")


def _build_decoder(folder: Path) -> pocketsphinx.Decoder:
    config = pocketsphinx.Config(
        hmm=pocketsphinx.get_model_path("en-us/en-us"),
        dict=str(folder / "words.dict"),
        lm=str(folder / "words.lm"),
        **DECODER_OPTIONS,
    )
    return pocketsphinx.Decoder(config)


def _recognise(decoder: pocketsphinx.Decoder, path: Path) -> str:
    samples = read_resampled(path)
    if len(samples) < SHORTEST_SECONDS * EVALUATION_RATE_HZ:
        return ""
    pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    decoder.reinit_feat()  # forgets the noise estimate of the utterance before, which would change this one's words
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else hypothesis.hypstr


def _start_worker(folder: Path) -> None:
    global _decoder
    _decoder = _build_decoder(folder)


def _recognise_in_worker(path: Path) -> str:
    assert _decoder is not None
    return _recognise(_decoder, path)


def _recognise_all(paths: list[Path], folder: Path, nj: int) -> Iterator[str]:
    nj = min(nj, math.ceil(len(paths) / CHUNK))
    if nj <= 1:
        decoder = _build_decoder(folder)
        for path in paths:
            yield _recognise(decoder, path)
        return
    # spawned, not forked: the caller may hold threads of torch
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(nj, context, _start_worker, (folder,)) as pool:
        yield from pool.map(_recognise_in_worker, paths, chunksize=CHUNK)


def transcribe(wavs: Mapping[Key, Path], vocabulary: Iterable[str], nj: int = 1) -> dict[Key, str]:
    """What is heard in every file; the empty string where no word is.

    A hypothesis depends on its own file and the vocabulary only, not on order or number of processes.

    Args:
        wavs: utterance (or any key) → audio file of any sample rate.
        vocabulary: words that may be heard; those that the pronouncing dictionary lacks cannot be.
        nj: processes.

    Returns:
        Key → words, lower case, separated by single spaces.

    Raises:
        ValueError: if `nj` is not positive, no word of the vocabulary is known, or a file cannot be read.
    """
    if nj < 1:
        raise ValueError(f"nj must be at least 1, got {nj}")
    nj = min(nj, os.cpu_count() or 1)
    words = {word for text in vocabulary for word in normalise(text).split()}
    with tempfile.TemporaryDirectory(prefix="asr") as name:
        _write_models(Path(name), words)
        heard = _recognise_all(list(wavs.values()), Path(name), nj)
        progress = tqdm(zip(wavs, heard, strict=True), desc="recognition", total=len(wavs), unit="utt")
        return dict(progress)
