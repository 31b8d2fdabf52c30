"""Words that an offline recogniser hears: PocketSphinx with its own English model, restricted to a vocabulary."""

from __future__ import annotations

import functools
import math
import tempfile
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import numpy as np
import pocketsphinx

from espnet_ext.atomic import atomic_path
from espnet_ext.jobs import Work, Workers, run_shards
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
SHARD_SIZE = 8


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


def _write_models(folder: Path, known: Mapping[str, Iterable[str]]) -> None:
    contents = {"words.dict": "".join(line for lines in known.values() for line in lines)}
    contents["words.lm"] = flat_unigram_arpa(known)
    for name, content in contents.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


@functools.lru_cache(maxsize=1)
def _load_once(folder: Path, modified_ns: int) -> pocketsphinx.Decoder:
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


def recognise_shard(folder: Path, paths: Mapping[str, Path]) -> dict[str, str]:
    """What is heard in every file.

    Args:
        folder: with the models of the vocabulary.
        paths: any key → audio file.

    Returns:
        Key → words.
    """
    decoder = _load_once(folder.absolute(), (folder / "words.lm").stat().st_mtime_ns)
    return {key: _recognise(decoder, path) for key, path in paths.items()}


def transcribe(
    wavs: Mapping[Key, Path], vocabulary: Iterable[str], workers: Workers | None = None, folder: Path | None = None
) -> dict[Key, str]:
    """What is heard in every file; the empty string where no word is.

    A hypothesis depends on its own file and the vocabulary only, not on order or number of processes.

    Args:
        wavs: utterance (or any key) → audio file of any sample rate; equal files are heard once.
        vocabulary: words that may be heard; those that the pronouncing dictionary lacks cannot be.
        workers: who listens; None for this process.
        folder: where finished work is kept for a run that continues, all workers must see it; None for a temporary one.

    Returns:
        Key → words, lower case, separated by single spaces.

    Raises:
        ValueError: if no word of the vocabulary is known, or a file cannot be read.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="asr") as name:
            return transcribe(wavs, vocabulary, workers, Path(name))
    known = pronunciations({word for text in vocabulary for word in normalise(text).split()})
    if not known:
        raise ValueError("vocabulary must have a word of the pronouncing dictionary, got none")
    _write_models(folder, known)
    request = {"words": sorted(known), "options": DECODER_OPTIONS, "recogniser": metadata.version("pocketsphinx")}
    work = Work(functools.partial(recognise_shard, folder), request, "recognition", SHARD_SIZE, lambda path: [path])
    files = {str(path): path for path in wavs.values()}
    heard: dict[str, str] = {}
    for _, results in run_shards(work, files, folder, workers or Workers()):
        heard.update(results)
    return {key: heard[str(path)] for key, path in wavs.items()}
