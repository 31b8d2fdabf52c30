"""Token directories: what belongs to an utterance in both streams, and what cannot belong together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_ext.ark import load_codes_entry
from espnet_ext.atomic import atomic_path
from espnet_ext.codec import Codec
from espnet_ext.codes import CodecSpec
from espnet_ext.datadir import read_scp, skipped_summary, write_data_dir, write_scp, write_skipped
from espnet_ext.semantic.base import SemanticTokenizer
from espnet_ext.semantic.units import lengths_agree
from espnet_ext.speaker_prompt import FALLBACK_NAME, PROMPT_ONLY_NAME, PROMPTS_NAME, PromptRule, choose_prompts

SILENCE_NAME = "silence.npz"
SILENCE_SEC = 1.0


@dataclass(frozen=True)
class CodesDir:
    """What a directory of `codec_tokens` says, together with the audio that it was made from.

    Attributes:
        place: utterance → place of its codes in an archive, for those with a transcript and for their prompts.
        frames: utterance → codec frames, likewise.
        wavs: utterance → audio file, likewise.
        utt2spk: utterance → speaker, likewise.
        prompts: utterance → prompt utterance, of those with a transcript only.
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
            ValueError: if they do not fit each other.
        """
        place = read_scp(codes_dir / "codes.scp")
        frames = {utterance: int(count) for utterance, count in read_scp(codes_dir / "utt2num_frames").items()}
        prompts, prompt_place = read_scp(codes_dir / PROMPTS_NAME), read_scp(codes_dir / "prompt.scp")
        for name, table in (("utt2num_frames", frames), (PROMPTS_NAME, prompts), ("prompt.scp", prompt_place)):
            if table.keys() != place.keys():
                some = min(table.keys() ^ place.keys())
                raise ValueError(f"{codes_dir}: {name} must list the utterances of codes.scp, they differ in {some}")
        for utterance, prompt in prompts.items():
            if prompt not in place:  # it is there to be a prompt alone
                place[prompt] = prompt_place[utterance]
                frames[prompt] = len(load_codes_entry(place[prompt], num_codebooks, prompt))
        wavs, utt2spk = read_scp(data_dir / "wav.scp"), read_scp(data_dir / "utt2spk")
        lost = _lost(codes_dir, data_dir, place, wavs)
        lost |= {utterance: "no speaker" for utterance in place.keys() & wavs.keys() if utterance not in utt2spk}
        if (data_dir / "utt2lang").is_file():
            languages = read_scp(data_dir / "utt2lang")
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
    listed: dict[str, str] = {}
    for name in (PROMPT_ONLY_NAME, "skipped"):
        path = codes_dir / name
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            utterance, _, reason = line.partition("\t")
            listed[utterance] = reason if name == "skipped" else ""
    reasons = {utterance: listed.get(utterance, f"not in {codes_dir}") for utterance in wavs if utterance not in place}
    lost = {utterance: f"no codes: {reason}" for utterance, reason in reasons.items() if reason}
    return lost | {utterance: f"no audio: not in {data_dir}" for utterance in place if utterance not in wavs}


def disagreement(num_units: int, num_frames: int, semantic: CodecSpec, codec: CodecSpec) -> str | None:
    """Why units and codes cannot be of the same sound, in one line; None if they can.

    Args:
        num_units: T1, not de-duplicated.
        num_frames: T2.
        semantic: facts of the tokenizer.
        codec: facts of the codec.

    Returns:
        The reason.
    """
    rates = semantic.frame_rate_hz, codec.frame_rate_hz
    if lengths_agree(num_units, rates[0], num_frames, rates[1]):
        return None
    return (
        f"lengths differ by more than 2 frames of {min(rates):g} Hz: {num_units} units ({num_units / rates[0]:.3f} s), "
        f"{num_frames} codec frames ({num_frames / rates[1]:.3f} s)"
    )


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
        ValueError: if no utterance or only one is left.
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
    write_scp(out / PROMPTS_NAME, prompts)
    write_scp(out / "prompt.scp", {utterance: codes.place[prompt] for utterance, prompt in prompts.items()})
    write_scp(out / "prompt_semantic.scp", {utterance: pointers[prompt] for utterance, prompt in prompts.items()})
    write_skipped(out / FALLBACK_NAME, fallbacks)
    if fallbacks:
        logging.warning("%s: prompts: %s", out, skipped_summary(fallbacks))
    write_skipped(out / PROMPT_ONLY_NAME, {utterance: "prompt" for utterance in pointers if utterance not in prompts})
    write_scp(out / "codes.scp", {utterance: codes.place[utterance] for utterance in prompts})
    write_scp(out / "utt2num_frames", {utterance: codes.frames[utterance] for utterance in prompts})
    write_scp(out / "semantic.scp", {utterance: pointers[utterance] for utterance in prompts})
    write_scp(out / "utt2num_units", {utterance: lengths[utterance] for utterance in prompts})
    if (data_dir / "utt2lang").is_file():
        languages = read_scp(data_dir / "utt2lang")
        write_scp(out / "utt2lang", {utt: languages[utt] for utt in prompts if utt in languages})
    else:
        (out / "utt2lang").unlink(missing_ok=True)
    text = read_scp(codes_dir / "text")
    write_data_dir(out, {utterance: codes.wavs[utterance] for utterance in prompts}, text, codes.utt2spk)


def write_silence(path: Path, codec: Codec, tokenizer: SemanticTokenizer) -> None:
    """Write a second of digital silence as both encode it: codes (F, N) int32 and units (U,) int32.

    Args:
        path: file to write.
        codec: the codec.
        tokenizer: the semantic tokenizer.
    """
    wav = torch.zeros(round(SILENCE_SEC * codec.spec.sample_rate_hz))
    codes, _ = codec.encode(wav[None], torch.tensor([len(wav)]))
    units = tokenizer.encode(torch.zeros(round(SILENCE_SEC * tokenizer.sample_rate_hz)))
    arrays: dict[str, NDArray[np.int32]] = {"codes": codes[0].numpy().astype(np.int32)}
    arrays["units"] = units.numpy().astype(np.int32)
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
