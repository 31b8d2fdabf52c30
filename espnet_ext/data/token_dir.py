"""Token directories: what belongs to an utterance in both streams, and what cannot belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.data.ark import load_codes_entry, read_pointers
from espnet_ext.data.datadir import (
    LANGUAGES_NAME,
    carry_table,
    read_counts,
    read_if_there,
    read_scp,
    read_skipped,
    write_data_dir,
    write_scp,
    write_skipped,
)
from espnet_ext.data.speaker_prompt import PROMPT_ONLY_NAME, PROMPTS_NAME, PromptRule, choose_prompts, write_choice
from espnet_ext.errors import UserError


@dataclass(frozen=True)
class CodesDir:
    """What a directory of `codec_tokens` says, together with the audio that it was made from.

    Attributes:
        place: utterance → place of its codes in an archive, for those of codes.scp and for their prompts.
        frames: utterance → codec frames, likewise.
        wavs: utterance → audio file, likewise.
        utt2spk: utterance → speaker, likewise.
        prompts: utterance → prompt utterance, of those of codes.scp only.
        lost: utterance → why it has no codes.
    """

    place: dict[str, str]
    frames: dict[str, int]
    wavs: dict[str, str]
    utt2spk: dict[str, str]
    prompts: dict[str, str]
    lost: dict[str, str]

    @classmethod
    def read(cls, codes_dir: Path, data_dir: Path, num_codebooks: int) -> CodesDir:
        """Read the tables.

        Args:
            codes_dir: made by codec_tokens.
            data_dir: what it was made from.
            num_codebooks: of the codec.

        Returns:
            The tables.

        Raises:
            FileNotFoundError: if one of them is missing.
            UserError: if they do not fit each other.
        """
        place = read_pointers(codes_dir / "codes.scp")
        frames = read_counts(codes_dir / "utt2num_frames")
        prompts, prompt_place = read_scp(codes_dir / PROMPTS_NAME), read_pointers(codes_dir / "prompt.scp")
        for name, table in (("utt2num_frames", frames), (PROMPTS_NAME, prompts), ("prompt.scp", prompt_place)):
            if table.keys() != place.keys():
                some = min(table.keys() ^ place.keys())
                raise UserError(f"{codes_dir}: {name} must list the utterances of codes.scp, they differ in {some}")
        for utterance, prompt in prompts.items():
            if prompt not in place:  # it is there to be a prompt alone
                place[prompt] = prompt_place[utterance]
                frames[prompt] = len(load_codes_entry(place[prompt], num_codebooks, prompt))
        wavs, utt2spk = read_scp(data_dir / "wav.scp"), read_scp(data_dir / "utt2spk")
        lost = _lost(codes_dir, data_dir, place, wavs)
        lost |= {utterance: "no speaker" for utterance in place.keys() & wavs.keys() if utterance not in utt2spk}
        languages = read_if_there(data_dir / LANGUAGES_NAME)
        if languages is not None:
            lost |= {utterance: "no language" for utterance in prompts if utterance not in languages}
        usable = sorted(place.keys() - lost.keys())
        return cls(
            {utterance: place[utterance] for utterance in usable},
            {utterance: frames[utterance] for utterance in usable},
            {utterance: wavs[utterance] for utterance in usable},
            {utterance: utt2spk[utterance] for utterance in usable},
            {utterance: prompt for utterance, prompt in prompts.items() if utterance not in lost},
            lost,
        )


def _lost(codes_dir: Path, data_dir: Path, place: Mapping[str, str], wavs: Mapping[str, str]) -> dict[str, str]:
    """Utterances with audio and no codes, and with codes and no audio, and why."""
    listed = dict.fromkeys(read_skipped(codes_dir / PROMPT_ONLY_NAME), "") | read_skipped(codes_dir / "skipped")
    reasons = {utterance: listed.get(utterance, f"not in {codes_dir}") for utterance in wavs if utterance not in place}
    lost = {utterance: f"no codes: {reason}" for utterance, reason in reasons.items() if reason}
    return lost | {utterance: f"no audio: not in {data_dir}" for utterance in place if utterance not in wavs}


def prompts_of(
    codes: CodesDir, kept: Mapping[str, object], rule: PromptRule, rate_hz: float
) -> tuple[dict[str, str], dict[str, str]]:
    """The prompts of the codec's directory, and others where those are not usable any more.

    Args:
        codes: the codec's directory.
        kept: utterances that have both streams, those that are prompts alone included.
        rule: how other prompts are chosen.
        rate_hz: of the codec.

    Returns:
        Utterance → prompt, and utterance → why it is another one.

    Raises:
        UserError: if no utterance or only one is left.
    """
    old = {utterance: prompt for utterance, prompt in codes.prompts.items() if utterance in kept}
    lost = {utterance: prompt for utterance, prompt in old.items() if prompt not in kept}
    prompts = {utterance: prompt for utterance, prompt in old.items() if prompt in kept}
    if not lost:
        return prompts, {}
    seconds = {utterance: codes.frames[utterance] / rate_hz for utterance in kept}
    others, reasons = choose_prompts({utt: codes.utt2spk[utt] for utt in kept}, seconds, rule, fixed=lost)
    reasons = {utterance: reason.replace("fixed prompt", "prompt", 1) for utterance, reason in reasons.items()}
    return dict(sorted((prompts | others).items())), reasons


def write_tables(
    out: Path, codes: CodesDir, codes_dir: Path, data_dir: Path, found: tuple[dict[str, str], dict[str, str]]
) -> None:
    """Write all tables of a token directory besides the archive of units, whose tables lose what is a prompt alone.

    Args:
        out: directory with semantic.scp and utt2num_units.
        codes: the codec's directory.
        codes_dir: its place.
        data_dir: what it was made from.
        found: what `prompts_of` returned.
    """
    prompts, fallbacks = found
    pointers, lengths = read_scp(out / "semantic.scp"), read_scp(out / "utt2num_units")
    write_choice(out, prompts, fallbacks, codes.place)
    write_scp(out / "prompt_semantic.scp", {utterance: pointers[prompt] for utterance, prompt in prompts.items()})
    write_skipped(out / PROMPT_ONLY_NAME, {utterance: "prompt" for utterance in pointers if utterance not in prompts})
    write_scp(out / "codes.scp", {utterance: codes.place[utterance] for utterance in prompts})
    write_scp(out / "utt2num_frames", {utterance: codes.frames[utterance] for utterance in prompts})
    write_scp(out / "semantic.scp", {utterance: pointers[utterance] for utterance in prompts})
    write_scp(out / "utt2num_units", {utterance: lengths[utterance] for utterance in prompts})
    carry_table(LANGUAGES_NAME, data_dir, out, prompts)
    text = read_if_there(codes_dir / "text")
    write_data_dir(out, {utterance: codes.wavs[utterance] for utterance in prompts}, text, codes.utt2spk)
