"""Speech of a GPST, in any of its modes, for a token directory, for single audio files, or out of nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.data.datadir import read_scp, write_scp
from espnet_ext.data.inputs import SEMANTIC_DIRECTORY
from espnet_ext.data.speaker_prompt import PROMPTS_NAME
from espnet_ext.data.streams import SILENCE_NAME
from espnet_ext.decoding.options import GPSTDecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.corpus import (
    add_decode_options,
    check_codec,
    check_machine,
    decode_options,
    model_of,
    model_state,
    report_unknown,
    speak_corpus,
    wav_of,
)
from espnet_ext.inference.gpst_jobs import GPSTJob, GPSTModel, GPSTVoice, Recording, files_of
from espnet_ext.inference.modes import Mode, modes
from espnet_ext.jobs import remove_shards
from espnet_ext.options import check_number
from espnet_ext.tokenizers.semantic import read_semantic_info

NUM_UTTERANCES = 20
WHOLE = "whole"


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_decode_options(parser)
    parser.add_argument("--mode", required=True, help=f"What to ask for: one of {list(modes)}")
    # a mode reads some of these; None says that nothing was given
    parser.add_argument("--data_dir", type=Path, help="Token directory of semantic_tokens")
    parser.add_argument("--prompts", type=Path, help="Table utterance → prompt utterance, instead of --data_dir's")
    parser.add_argument("--prompt_sec", type=float, help=f"Longest prompt; default: {Mode.prompt_sec}")
    parser.add_argument("--silence_sec", type=float, help=f"Behind a prompt; default: {Mode.silence_sec}")
    parser.add_argument(
        "--text_to_semantic", type=Path, help="Experiment directory of the model in front, for mode tts"
    )
    parser.add_argument("--num_utterances", type=int, help=f"For mode unconditional; default: {NUM_UTTERANCES}")
    parser.add_argument("--target_wav", help="Audio file of the utterance, instead of --data_dir")
    parser.add_argument("--prompt_wav", help="Audio file of the voice to speak with, instead of --data_dir")
    parser.add_argument("--text", help="What to say, instead of --data_dir")
    parser.add_argument("--language", help="Of all utterances; default: what utt2lang of --data_dir says")
    return parser


@dataclass(frozen=True)
class Plan:
    """What is to be spoken.

    Attributes:
        jobs: utterance → job, short ones first: equal lengths together waste less time on rows that have ended.
        skipped: utterance → why it cannot be spoken.
        prompts: utterance → utterance whose voice it is to have; empty where nobody's is given.
    """

    jobs: dict[str, GPSTJob]
    skipped: dict[str, str]
    prompts: dict[str, str]


def plan_single(args: argparse.Namespace, mode: Mode) -> Plan:
    """The one utterance that single files and texts ask for, or unconditional ones.

    Args:
        args: the command's options.
        mode: what is asked for.

    Returns:
        The plan.

    Raises:
        UserError: naming the option that is missing.
    """
    wav = args.output_dir / "wav"
    if mode.samples_units:
        count = NUM_UTTERANCES if args.num_utterances is None else args.num_utterances
        names = [f"{args.mode}-{index:0{len(str(count - 1))}d}" for index in range(count)]
        return Plan({name: GPSTJob(wav / f"{name}.wav", language=args.language or "") for name in names}, {}, {})
    option = "target_wav" if mode.source == "speech" else "text"
    given = {option: getattr(args, option)} | ({"prompt_wav": args.prompt_wav} if mode.prompted else {})
    for name, value in given.items():
        if not value or not value.strip():
            raise UserError(f"{name} must be given for mode {args.mode} without data_dir, got {value!r}")
    name = "_".join(Path(args.target_wav).stem.split()) if mode.source == "speech" else "text"
    job = GPSTJob(
        wav / f"{name}.wav",
        args.output_dir / WHOLE / "wav" / f"{name}.wav" if mode.continues else None,
        args.text or "",
        Recording(wav=args.target_wav) if mode.source == "speech" else None,
        Recording(wav=args.prompt_wav) if mode.prompted else None,
        args.language or "",
    )
    return Plan({name: job}, {}, {})


def plan_data(args: argparse.Namespace, mode: Mode) -> Plan:
    """The utterances of a token directory.

    Args:
        args: the command's options.
        mode: what is asked for.

    Returns:
        The plan.

    Raises:
        FileNotFoundError: if the directory lacks a table.
        UserError: if a table is malformed.
    """
    data: Path = args.data_dir
    units, codes = read_scp(data / "semantic.scp"), read_scp(data / "codes.scp")
    texts = read_scp(data / "text", allow_empty=True) if mode.source == "text" else dict.fromkeys(units, "")
    languages, lengths = read_optional(data / "utt2lang"), read_optional(data / "utt2num_units")
    prompts = prompt_table(args) if mode.prompted else {}
    recordings = {utt: Recording(units[utt], codes[utt]) for utt in units if utt in codes}
    voices = recordings | prompt_recordings(data) if mode.prompted else {}
    jobs, skipped = {}, {}
    for utt, text in texts.items():
        if mode.source == "text" and not text.strip():
            skipped[utt] = "empty text"
        elif mode.source == "speech" and utt not in recordings:
            skipped[utt] = "no codes"
        elif mode.prompted and prompts.get(utt) not in voices:
            skipped[utt] = f"no prompt: {prompts[utt]} has no units and codes" if utt in prompts else "no prompt"
        else:
            jobs[utt] = GPSTJob(
                wav_of(args.output_dir, utt),
                wav_of(args.output_dir / WHOLE, utt) if mode.continues else None,
                text,
                recordings[utt] if mode.source == "speech" else None,
                voices[prompts[utt]] if mode.prompted else None,
                args.language or languages.get(utt, ""),
            )
    order = sorted(jobs, key=lambda utt: (len(texts[utt]), int(lengths.get(utt, 0)), utt))
    used = {utt: utt if mode.continues else prompts[utt] for utt in jobs if mode.continues or mode.prompted}
    return Plan({utt: jobs[utt] for utt in order}, skipped, used)


def read_optional(path: Path) -> dict[str, str]:
    """A table, empty if there is no such file."""
    return read_scp(path) if path.is_file() else {}


def prompt_table(args: argparse.Namespace) -> dict[str, str]:
    """Utterance → prompt utterance, from `--prompts` or from the token directory."""
    return read_scp(args.data_dir / PROMPTS_NAME if args.prompts is None else args.prompts)


def prompt_recordings(data: Path) -> dict[str, Recording]:
    """Recordings of the token directory's own prompts, which need not be among its utterances."""
    tables = [data / name for name in (PROMPTS_NAME, "prompt_semantic.scp", "prompt.scp")]
    if not all(path.is_file() for path in tables):
        return {}
    names, units, codes = (read_scp(path) for path in tables)
    return {name: Recording(units[utt], codes[utt]) for utt, name in names.items() if utt in units and utt in codes}


def check_tokens(exp: Path, data_dir: Path) -> None:
    """Refuse a token directory of another codec or another semantic tokenizer.

    Args:
        exp: experiment directory.
        data_dir: token directory.

    Raises:
        FileNotFoundError: if it does not tell.
        UserError: naming both, if they differ.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(f"data_dir not found: {data_dir} (espnet_ext.bin.semantic_tokens writes it)")
    check_codec(exp, data_dir, "codes.scp")
    expected, found = (read_semantic_info(path) for path in (exp / SEMANTIC_DIRECTORY, data_dir))
    if expected.fingerprint != found.fingerprint:
        told = [f"{info.fingerprint[:12]}… ({info.spec.codebook_size} units)" for info in (expected, found)]
        raise UserError(f"data_dir {data_dir} must hold units of semantic tokenizer {told[0]} as {exp}, got {told[1]}")


def readers() -> dict[str, list[str]]:
    """Option → the modes that read it, for options that not all of them read."""
    options = sorted({option for name in modes for option in modes[name].reads})
    return {option: [name for name in modes if option in modes[name].reads] for option in options}


def check_options(args: argparse.Namespace) -> Mode:
    """What is asked for, if no option is given that would be ignored or contradicts another.

    Args:
        args: the command's options.

    Returns:
        The mode.

    Raises:
        UserError: naming the option.
    """
    kind = modes[args.mode]
    for name, known in readers().items():
        value = getattr(args, name)
        if value is not None and args.mode not in known:
            raise UserError(f"{name} must be left out with mode {args.mode}, got {value}: it is for {', '.join(known)}")
    seconds = {name: getattr(args, name) for name in ("prompt_sec", "silence_sec")}
    mode = kind(**{name: value for name, value in seconds.items() if value is not None})
    for name in ("prompts", "prompt_wav"):
        if getattr(args, name) is not None and not mode.prompted:
            raise UserError(f"{name} must be left out with prompt_sec 0, got {getattr(args, name)}")
    if args.num_utterances is not None:
        check_number("num_utterances", args.num_utterances, least=1, whole=True)
    if args.data_dir is None:
        if args.prompts is not None:
            raise UserError(f"prompts must be given with data_dir, got {args.prompts} without")
        return mode
    for name in ("target_wav", "prompt_wav", "text"):
        if getattr(args, name) is not None:
            raise UserError(f"{name} must not be given with data_dir, got {getattr(args, name)!r}")
    return mode


def main(cmd: Sequence[str] | None = None) -> None:
    """Speak.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    args = get_parser().parse_args(cmd)
    here = check_machine(args)
    options = decode_options(args, GPSTDecodeOptions)
    mode = check_options(args)
    silent = args.data_dir is not None and (args.data_dir / SILENCE_NAME).is_file()
    more = {
        "text_to_semantic": args.text_to_semantic,
        "silence": args.data_dir if silent else None,
    }
    # what is wrong with the model is said before any work
    voice = GPSTVoice(GPSTModel(**asdict(here), **more), mode, options)
    speech = voice.load()
    speech.check(options, mode)
    speech.check_language(args.language or "")
    if args.data_dir is not None:
        check_tokens(args.exp, args.data_dir)
    plan = plan_single(args, mode) if args.data_dir is None else plan_data(args, mode)
    facts = {"mode": args.mode, **asdict(mode), "frame_stacking_factor": speech.corelm.stacking}
    facts |= text_model_facts(args, mode)
    voice = replace(voice, model=GPSTModel(**asdict(model_of(args)), **more))
    label = f"{args.mode} {options.decoding}"
    speak_corpus(voice, options, plan.jobs, plan.skipped, files_of, args, label, facts)
    write_extras(args.output_dir, plan, mode)
    if mode.source == "text":
        report_unknown(speech.text_to_units, {utt: job.text for utt, job in plan.jobs.items()}, plan.skipped)
    remove_shards(args.output_dir)


def text_model_facts(args: argparse.Namespace, mode: Mode) -> Mapping[str, object]:
    """What the units of texts depend on; nothing for the other modes."""
    return {"text_to_semantic": model_state(args.text_to_semantic)} if mode.source == "text" else {}


def write_extras(directory: Path, plan: Plan, mode: Mode) -> None:
    """Write whose voice was given, and the tables of the speech that includes what was given.

    Args:
        directory: the command's output.
        plan: what was asked for.
        mode: likewise.
    """
    status = read_scp(directory / "status")
    spoken = {utt for utt, what in status.items() if what != "skipped"}
    prompts = {utt: prompt for utt, prompt in plan.prompts.items() if utt in spoken}
    if prompts:
        write_scp(directory / PROMPTS_NAME, prompts)
    else:  # of an earlier run in another mode
        (directory / PROMPTS_NAME).unlink(missing_ok=True)
    if mode.continues:
        whole = directory / WHOLE
        write_scp(whole / "wav.scp", {utt: wav_of(whole, utt) for utt in spoken})
        write_scp(whole / "status", status)
        write_scp(whole / PROMPTS_NAME, prompts)


if __name__ == "__main__":
    run(main)
