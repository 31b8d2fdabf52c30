"""Token directories of several corpora → one, in which small corpora are repeated as a temperature says.

python local/mix_corpora.py --corpus en=dump/gpst_en/train zh=dump/gpst_zh/train --temperature 2 --out dump/gpst_mix/all

A corpus of h hours gets a share of h^(1/temperature) of the speech: with 1 every utterance is there once, above 1 small
corpora come closer to large ones. What is repeated is repeated as a whole, and a part of it, chosen by a hash of the
utterance ids, once more; the corpus that is repeated least is there exactly once, so nothing is lost.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from token_corpus import NEEDED, OTHERS, Corpus, check_tokenizers, mixed_tables, new_ids, read_corpus

from espnet_ext.bin import run
from espnet_ext.data.datadir import LANGUAGES_NAME, speaker_to_utterances, write_scp, write_skipped
from espnet_ext.data.streams import SILENCE_NAME
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.tokenizers.codec import INFO_NAME as CODEC_INFO
from espnet_ext.tokenizers.codec import read_codec_info, write_codec_info
from espnet_ext.tokenizers.semantic import INFO_NAME as SEMANTIC_INFO
from espnet_ext.tokenizers.semantic import read_semantic_info, write_semantic_info

REPORT = "mix.tsv"
LAST = "semantic.scp"  # later stages look for it first


@dataclass(frozen=True)
class Row:
    """What became of a corpus: a line of mix.tsv, with its columns."""

    corpus: str
    utterances: int
    hours: float
    share: float
    repetitions: float
    wanted_share: float
    mixed_utterances: int
    mixed_hours: float
    mixed_share: float


def shares(seconds: Sequence[float], temperature: float) -> list[float]:
    """Share of every corpus, in proportion to seconds^(1 / temperature).

    Args:
        seconds: of every corpus, positive.
        temperature: at least 1; infinity makes all shares equal.

    Returns:
        The shares, 1 together.

    Raises:
        UserError: if the temperature is below 1 or no number.

    >>> shares([1.0, 9.0], temperature=2)
    [0.25, 0.75]
    """
    if not temperature >= 1:
        raise UserError(f"--temperature must be at least 1, got {temperature}")
    powers = [(value / max(seconds)) ** (1 / temperature) for value in seconds]
    return [power / sum(powers) for power in powers]


def repetitions(seconds: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """How often every corpus must be there to have its share; 1 for the one that needs it least.

    >>> repetitions([1.0, 9.0], [0.25, 0.75])
    [3.0, 1.0]
    """
    most = max(value / share for value, share in zip(seconds, wanted, strict=True))
    return [most * share / value for value, share in zip(seconds, wanted, strict=True)]


def pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE words as a table.

    Args:
        words: as given.
        option: to name in errors.

    Returns:
        Name → value, in the order given.

    Raises:
        UserError: if a word has no name or no value, a name cannot be the beginning of an id, or comes twice.
    """
    table: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not value or "/" in name or len(name.split()) != 1 or name != name.strip():
            raise UserError(f"{option} must be NAME=VALUE with one word without a slash as name, got {word!r}")
        if name in table:
            raise UserError(f"{option} must have every name once, got {name} for {table[name]} and for {value}")
        table[name] = value
    return table


def mix(directories: Mapping[str, str], temperature: float, languages: Mapping[str, str], out: Path) -> list[Row]:
    """Mix token directories.

    Args:
        directories: name → token directory.
        temperature: at least 1.
        languages: name → language of the utterances that have none.
        out: token directory to write.

    Returns:
        What became of every corpus.

    Raises:
        UserError: if options or corpora do not fit together.
    """
    if strangers := sorted(set(languages) - set(directories)):
        raise UserError(f"--language must name corpora among {list(directories)}, got {strangers[0]}")
    if out.resolve() in [Path(directory).resolve() for directory in directories.values()]:
        raise UserError(f"--out must be another directory than those that are mixed, got {out}")
    corpora = [read_corpus(name, Path(place), languages.get(name)) for name, place in directories.items()]
    check_tokenizers(corpora)
    seconds = [corpus.total_sec for corpus in corpora]
    wanted = shares(seconds, temperature)
    often = repetitions(seconds, wanted)
    ids = new_ids(corpora, often)
    mixed = {corpus.name: [corpus.seconds[old] for c, old in ids.values() if c is corpus] for corpus in corpora}
    total, mixed_total = sum(seconds), sum(map(sum, mixed.values()))
    rows = []
    for corpus, before, times, share in zip(corpora, seconds, often, wanted, strict=True):
        after = len(mixed[corpus.name]), sum(mixed[corpus.name]) / 3600, sum(mixed[corpus.name]) / mixed_total
        rows.append(Row(corpus.name, len(corpus.seconds), before / 3600, before / total, times, share, *after))
    write_mix(corpora, mixed_tables(corpora, ids), rows, out)
    return rows


def write_mix(
    corpora: Sequence[Corpus], tables: Mapping[str, Mapping[str, str]], rows: Sequence[Row], out: Path
) -> None:
    """Write the token directory; semantic.scp appears last.

    Args:
        corpora: what was mixed.
        tables: `mixed_tables`.
        rows: of mix.tsv.
        out: the directory; tables of an earlier mix that this one does not have are removed.
    """
    for table in (LAST, *NEEDED, *OTHERS, LANGUAGES_NAME, "spk2utt", SILENCE_NAME):
        (out / table).unlink(missing_ok=True)
    first = corpora[0].directory
    write_codec_info(replace(read_codec_info(first), origin={}), out / CODEC_INFO)
    write_semantic_info(replace(read_semantic_info(first), origin={}), out / SEMANTIC_INFO)
    if (first / SILENCE_NAME).is_file():  # the same tokenizers make the same of silence
        with atomic_path(out / SILENCE_NAME) as temporary:
            shutil.copyfile(first / SILENCE_NAME, temporary)
    skipped = {f"{c.name}-{name}": reason for c in corpora for name, reason in c.skipped().items()}
    write_skipped(out / "skipped", skipped)
    if "utt2spk" in tables:
        speakers = speaker_to_utterances(tables["utt2spk"])
        write_scp(out / "spk2utt", {speaker: " ".join(several) for speaker, several in speakers.items()})
    lines = [list(Row.__dataclass_fields__)]
    lines += [
        [f"{value:.6g}" if isinstance(value, float) else str(value) for value in vars(row).values()] for row in rows
    ]
    with atomic_path(out / REPORT) as temporary:
        temporary.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    for table in sorted(tables, key=lambda name: (name == LAST, name)):
        write_scp(out / table, tables[table])


def main(arguments: Sequence[str] | None = None) -> None:
    """Mix, and say what became of every corpus.

    Args:
        arguments: command line without the program name; None takes it from the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = {"nargs": "+", "action": "extend"}
    parser.add_argument("--corpus", required=True, metavar="NAME=DIR", help="token directories", **several)
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="1 keeps everything once, inf makes equal shares"
    )
    parser.add_argument("--language", default=[], metavar="NAME=LANG", help="of utterances without one", **several)
    parser.add_argument("--out", type=Path, required=True, help="token directory to write, and mix.tsv")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    directories, languages = pairs(args.corpus, "--corpus"), pairs(args.language, "--language")
    for row in mix(directories, args.temperature, languages, args.out):
        before = f"{row.utterances} utterances, {row.hours:.3f} h, {row.share:.1%} of the speech"
        after = f"{row.mixed_utterances} utterances, {row.mixed_hours:.3f} h, {row.mixed_share:.1%}"
        wanted = f"wanted {row.wanted_share:.1%}"
        logging.info("%s: %s; %.3f times: %s (%s)", row.corpus, before, row.repetitions, after, wanted)


if __name__ == "__main__":
    run(main)
