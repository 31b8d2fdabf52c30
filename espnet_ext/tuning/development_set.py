"""The development set that sampling is tuned on: its utterances, checked, and never those of a test."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from espnet_ext.data.datadir import read_if_there, read_scp, speaker_to_utterances, write_scp
from espnet_ext.errors import UserError
from espnet_ext.scoring.system import Reference
from espnet_ext.tokenizers.codec import INFO_NAME, read_codec_info, write_codec_info

ENOUGH = 20  # sentences; with fewer, intervals hold nearly everything and the choice is the distance's alone
TABLES = ("text", "utt2spk", "codes.scp", "prompt.scp", "utt2prompt")


@dataclass(frozen=True)
class TuningSet:
    """What is decoded to tune on.

    Attributes:
        reference: its texts, speakers and codes.
        remarks: what is doubtful about it, one sentence each.
    """

    reference: Reference
    remarks: tuple[str, ...]


def some(utt2spk: Mapping[str, str], most: int) -> list[str]:
    """So many utterances of all speakers in turn, chosen by their ids alone; 0 for all.

    Args:
        utt2spk: utterance → speaker.
        most: how many.

    Returns:
        The utterances, sorted.
    """
    if not most:
        return sorted(utt2spk)
    mixed = [
        sorted(utterances, key=lambda one: zlib.crc32(one.encode()))
        for utterances in speaker_to_utterances(utt2spk).values()
    ]
    turns = [one for turn in zip_longest(*mixed) for one in turn if one is not None]
    return sorted(turns[:most])


def read_tuning_set(data_dir: Path, place: Path, limit: int, not_these: Iterable[Path], exp: Path) -> TuningSet:
    """Write the utterances to tune on into a directory of their own.

    Args:
        data_dir: development set: text, utt2spk, codes.scp, and prompt.scp if there are prompts.
        place: gets the tables of the utterances that are used.
        limit: most utterances, 0 for all.
        not_these: directories whose utterances must not be tuned on.
        exp: experiment directory, whose outputs tell what is a test set.

    Returns:
        The set.

    Raises:
        FileNotFoundError: if a file is missing.
        UserError: if there is no text, or an utterance of `not_these`.
    """
    tables = {name: read_if_there(data_dir / name, allow_empty=name == "text") for name in TABLES}
    if not any(text.strip() for text in (tables["text"] or {}).values()):
        raise UserError(f"data_dir must have texts, whose words can be counted, got none in {data_dir / 'text'}")
    texts = {utt: text for utt, text in (tables["text"] or {}).items() if text.strip()}
    for name in ("utt2spk", "codes.scp"):
        if tables[name] is None:
            raise FileNotFoundError(f"{data_dir / name} is missing: the distance of codes is that to the recordings'")
    speakers, codes = tables["utt2spk"] or {}, tables["codes.scp"] or {}
    usable = {utt: speakers[utt] for utt in texts if utt in codes and utt in speakers}
    if not usable:
        raise UserError(f"data_dir must have utterances in text, utt2spk and codes.scp alike, got none in {data_dir}")
    _refuse_others(data_dir, codes, not_these)
    chosen = some(usable, limit)
    for name, table in tables.items():
        if table is not None:
            write_scp(place / name, {utt: table[utt] for utt in chosen if utt in table})
    if (data_dir / INFO_NAME).is_file():
        write_codec_info(read_codec_info(data_dir / INFO_NAME), place / INFO_NAME)
    speakers = {utt: speakers[utt] for utt in chosen}
    reference = Reference(place, {utt: texts[utt] for utt in chosen}, speakers, speakers, {}, {}, {}, {})
    return TuningSet(reference, tuple(_remarks(data_dir, codes, chosen, exp)))


def _refuse_others(data_dir: Path, codes: Mapping[str, str], not_these: Iterable[Path]) -> None:
    for other in not_these:
        shared = sorted(codes.keys() & read_scp(other / "codes.scp").keys())
        if shared:
            told = f"{len(shared)} of {len(codes)} utterances ({shared[0]} …)"
            raise UserError(
                f"data_dir must share no utterance with {other}, got {data_dir} with {told}: what is chosen on the "
                "sentences of a test, or of the training, says nothing about others"
            )


def _remarks(data_dir: Path, codes: Mapping[str, str], chosen: Sequence[str], exp: Path) -> Iterable[str]:
    if len(chosen) < ENOUGH:
        yield f"{len(chosen)} sentences are few to tune on: below {ENOUGH} most settings cannot be told apart"
    if data_dir.name.startswith("test"):
        yield f"{data_dir} is called a test set: scores on what sampling was tuned on are too good"
    for status in sorted(exp.glob("decode_*/*/status")):
        if read_scp(status).keys() == codes.keys():
            yield f"{data_dir} has the utterances of {status.parent}: scores on what sampling was tuned on are too good"
            break
