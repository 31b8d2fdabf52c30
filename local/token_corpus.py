"""Token directories of several corpora as one: new ids, and every table with them."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.data.datadir import LANGUAGES_NAME, read_counts, read_if_there, read_scp, read_skipped
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.codec import read_codec_info
from espnet_ext.tokenizers.semantic import read_semantic_info

NEEDED = ("utt2num_units", "utt2num_frames", "codes.scp", "semantic.scp")
OTHERS = ("prompt.scp", "prompt_semantic.scp", "utt2prompt", "text", "wav.scp", "utt2spk")
OF_CORPUS = ("utt2prompt", "utt2spk")  # their values are utterances or speakers of the corpus, and get its name too


@dataclass(frozen=True)
class Corpus:
    """A token directory.

    Attributes:
        name: goes before every id.
        directory: where it lies.
        tables: file name → utterance → value.
        seconds: utterance → duration.
        languages: utterance → language, of those that have one.
    """

    name: str
    directory: Path
    tables: dict[str, dict[str, str]]
    seconds: dict[str, float]
    languages: dict[str, str]

    @property
    def total_sec(self) -> float:
        """Seconds of speech."""
        return sum(self.seconds.values())

    def skipped(self) -> dict[str, str]:
        """What is not in it: name → reason."""
        return read_skipped(self.directory / "skipped")

    def copies(self, repetitions: float) -> dict[str, int]:
        """Utterance → how often it is there: the whole part, and once more for those whose hashes are smallest."""
        whole = math.floor(repetitions)
        times, missing_sec = dict.fromkeys(self.seconds, whole), (repetitions - whole) * self.total_sec
        for utterance in sorted(self.seconds, key=_place):
            if missing_sec < self.seconds[utterance] / 2:  # without it the sum is nearer
                break
            missing_sec -= self.seconds[utterance]
            times[utterance] += 1
        return times


def _place(utterance: str) -> bytes:
    return hashlib.blake2b(utterance.encode(), digest_size=8).digest()


def _check_archives(name: str, tables: Mapping[str, Mapping[str, str]]) -> None:
    # tables of another recipe may hold paths that are relative to that recipe
    for table in ("codes.scp", "semantic.scp"):
        archive = next(iter(tables[table].values())).rpartition(":")[0]
        if not Path(archive).is_file():
            raise FileNotFoundError(f"{table} of --corpus {name} names {archive}, which is not there from {Path.cwd()}")


def read_corpus(name: str, directory: Path, language: str | None) -> Corpus:
    """A token directory, every table that it has.

    Args:
        name: goes before every id.
        directory: to read.
        language: of the utterances that utt2lang does not have.

    Returns:
        The corpus.

    Raises:
        FileNotFoundError: if one of the tables is missing that every token directory has, or an archive that they name.
        UserError: if those do not list the same utterances, or none.
    """
    tables = {table: read_scp(directory / table) for table in NEEDED}
    tables |= {table: read_scp(directory / table) for table in OTHERS if (directory / table).is_file()}
    utterances = tables["semantic.scp"].keys()
    if not utterances:
        raise UserError(f"--corpus {name}={directory} must have utterances, got none")
    for table in NEEDED:
        if tables[table].keys() != utterances:
            odd = min(tables[table].keys() ^ utterances)
            raise UserError(
                f"{directory}: {table} and semantic.scp must list the same utterances, they differ in {odd}"
            )
    _check_archives(name, tables)
    rate_hz = read_codec_info(directory).spec.frame_rate_hz
    seconds = {utterance: frames / rate_hz for utterance, frames in read_counts(directory / "utt2num_frames").items()}
    own = read_if_there(directory / LANGUAGES_NAME) or {}
    languages = {u: own.get(u, language) for u in utterances}
    return Corpus(name, directory, tables, seconds, {u: found for u, found in languages.items() if found is not None})


def check_tokenizers(corpora: Sequence[Corpus]) -> None:
    """Refuse codes or units of different tokenizers.

    Args:
        corpora: to mix.

    Raises:
        UserError: naming two corpora and what they differ in.
    """
    facts: dict[str, Callable[[Path], object]] = {
        "codec fingerprint": lambda path: read_codec_info(path).fingerprint,
        "semantic fingerprint": lambda path: read_semantic_info(path).fingerprint,
        "deduplicate of the semantic tokenizer": lambda path: read_semantic_info(path).deduplicate,
    }
    for what, read in facts.items():
        found = [read(corpus.directory) for corpus in corpora]
        for corpus, value in zip(corpora, found, strict=True):
            if value != found[0]:
                raise UserError(
                    f"--corpus must have one {what}, got {found[0]} in {corpora[0].name} ({corpora[0].directory}) and "
                    f"{value} in {corpus.name} ({corpus.directory})"
                )


def new_ids(corpora: Sequence[Corpus], repetitions: Sequence[float]) -> dict[str, tuple[Corpus, str]]:
    """New id → corpus and utterance there.

    Args:
        corpora: to mix.
        repetitions: of each.

    Returns:
        The ids.

    Raises:
        UserError: if two utterances would get the same id.
    """
    ids: dict[str, tuple[Corpus, str]] = {}
    for corpus, times in zip(corpora, repetitions, strict=True):
        for utterance, copies in corpus.copies(times).items():
            for number in range(1, copies + 1):
                new = f"{corpus.name}-{utterance}" + (f"-r{number}" if number > 1 else "")
                if new in ids:
                    raise UserError(f"--corpus must have names that keep ids apart, got {new} from two utterances")
                ids[new] = corpus, utterance
    return ids


def mixed_tables(corpora: Sequence[Corpus], ids: Mapping[str, tuple[Corpus, str]]) -> dict[str, dict[str, str]]:
    """The tables that all corpora have, with the new ids; the others are named in the log.

    Args:
        corpora: to mix.
        ids: `new_ids`.

    Returns:
        File name → new id → value.

    Raises:
        UserError: if only some utterances have a language.
    """
    result: dict[str, dict[str, str]] = {}
    for table in (*NEEDED, *OTHERS):
        lacking = [corpus.name for corpus in corpora if table not in corpus.tables]
        if not lacking:
            result[table] = {}
            for new, (corpus, old) in ids.items():
                if old in corpus.tables[table]:
                    prefix = f"{corpus.name}-" if table in OF_CORPUS else ""
                    result[table][new] = prefix + corpus.tables[table][old]
        elif len(lacking) < len(corpora):
            logging.warning("%s is left out: there is none in %s", table, ", ".join(lacking))
    languages = {new: corpus.languages[old] for new, (corpus, old) in ids.items() if old in corpus.languages}
    without = sorted(ids.keys() - languages.keys())
    if languages and without:
        name = ids[without[0]][0].name
        raise UserError(
            f"{LANGUAGES_NAME} must be of all utterances or of none, got none for {without[0]}: --language {name}=…"
        )
    return result | ({LANGUAGES_NAME: languages} if languages else {})
