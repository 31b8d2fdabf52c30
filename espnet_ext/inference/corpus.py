"""Speech for a whole corpus: shards of utterances, the output directory, the report."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from espnet_ext.data.ark import codes_writer
from espnet_ext.data.audio import write_wav
from espnet_ext.data.ctm import WORDS_NAME, write_ctm
from espnet_ext.data.datadir import skipped_summary, write_scp, write_skipped
from espnet_ext.data.speaker_prompt import PROMPTS_NAME
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.decode_yaml import keep_unless_chosen
from espnet_ext.inference.model_ref import ModelRef, model_state
from espnet_ext.inference.options import FAST, check_machine, check_options, fast_choices, model_of
from espnet_ext.inference.requests import WHOLE, Job, Mode, Plan, Request, default_mode, name_of, wav_of
from espnet_ext.inference.speaker import Speaker
from espnet_ext.inference.speech import Speech, Timing, prompt_line, total
from espnet_ext.jobs import Work, Workers, remove_shards, run_groups
from espnet_ext.options import check_number
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.lock import claim

TIMING = "timing.json"
SHARD_BATCHES = 4  # utterances of a shard, in batches: rows that are finished make place for others of their shard
STARTUP_SECONDS = 8.0  # a process imports torch and loads the model
Result = tuple[dict[str, Speech | str], Timing]  # utterance → speech without its sound, or why there is none; the costs


def decode(args: argparse.Namespace, options: DecodeOptions) -> None:
    """Decode a corpus: codes, wavs, scores, status, skipped and timing, and one line about them.

    Args:
        args: the command's options.
        options: how to decode, whatever `args` says of it.

    Raises:
        FileNotFoundError: if a file is missing.
        UserError: if model, data and options do not fit each other, or nothing can be spoken.
    """
    here, mode = check_machine(args), check_options(args)
    check_number("repeat", args.repeat, least=0, whole=True)
    options = replace(options, seed=options.seed + args.repeat)
    # what is wrong with the model is said before any work
    speaker = here.load()
    speaker.check(options, mode)
    speaker.check_language(args.language or "")
    if args.keep_config:
        keep_unless_chosen(args.exp, options)
    with claim(args.output_dir):
        _decode(args, options, mode, speaker)


def _decode(args: argparse.Namespace, options: DecodeOptions, mode: Mode, speaker: Speaker) -> None:
    """Decode with options that have been checked."""
    plan, facts = mode.plan(args), _facts(args, mode, speaker)
    chosen = {name: getattr(args, name) for name in ("model_file", "batch_size", "num_threads", "device")}
    # what was decoded before these options came stays finished
    fast = {name: value for name, value in fast_choices(args).items() if value}
    request = {**model_state(args.exp, args.model_file), **chosen, **fast, **facts, **options.given()}
    speak = functools.partial(speak_shard, model_of(args), mode, options)
    label = f"{options.decoding} {(args.data_dir or args.output_dir).name}"
    work = Work(speak, request, label, SHARD_BATCHES * args.batch_size, Job.files, first=args.batch_size)
    workers = Workers(args.nj, args.dask_scheduler, args.num_threads, STARTUP_SECONDS)
    if args.force:
        remove_shards(args.output_dir)
    shards = [result for *_, result in run_groups(work, {args.output_dir: plan.jobs}, workers)]
    cost = total(timing for _, timing in shards)
    results = {utt: result for found, _ in shards for utt, result in found.items()}
    spoken = {utt: result for utt, result in results.items() if isinstance(result, Speech)}
    skipped = {**plan.skipped, **{utt: result for utt, result in results.items() if isinstance(result, str)}}
    write_skipped(args.output_dir / "skipped", skipped)
    if not spoken:
        first = next(iter(skipped), "nothing was asked for")
        reason = f"{args.data_dir or args.output_dir} must have utterances that can be spoken: {first}"
        raise UserError(f"{reason}: {skipped.get(first, '')}")
    write_tables(args.output_dir, mode, plan, spoken, skipped)
    machine = {name: getattr(args, name) for name in ("batch_size", "num_threads", "device", *FAST)}
    used = {**options.complete(), "maxlenratio": speaker.maxlenratio(options)}
    timing = {**asdict(cost), **cost.rates(), **machine, **facts, **used}
    with atomic_path(args.output_dir / TIMING) as temporary:
        temporary.write_text(json.dumps(timing, indent=2) + "\n", encoding="utf-8")
    logging.info(
        "%d utterances (%d without EOS; skipped: %s), %.1f s of speech, RTF %.3f, in %s",
        cost.utterances, cost.no_eos, skipped_summary(skipped), cost.seconds_audio, cost.rtf, args.output_dir,
    )  # fmt: skip
    speaker.warn_of_unknown(result.unknown for result in spoken.values())
    given, heard = (sum(getattr(one, name) for one in spoken.values()) for name in ("prompt_sec", "prompt_used_sec"))
    if line := prompt_line(given, heard, "prompt" if len(spoken) == 1 else "prompts"):
        logging.info("%s", line)
    remove_shards(args.output_dir)


def _facts(args: argparse.Namespace, mode: Mode, speaker: Speaker) -> dict[str, object]:
    """Plain values that the speech depends on besides jobs, options and weights; they go into timing.json."""
    name = {} if name_of(mode) == default_mode(type(speaker.corelm)) else {"mode": name_of(mode)}
    facts = {**name, **asdict(mode), "frame_stacking_factor": speaker.corelm.stacking}
    return facts | ({"text_to_semantic": model_state(args.text_to_semantic)} if speaker.text_to_units else {})


def speak_shard(model: ModelRef, mode: Mode, options: DecodeOptions, jobs: Mapping[str, Job]) -> Result:
    """Speak utterances together into wav files, as many at once as the model is to generate.

    If that is impossible they are spoken in smaller parts, which changes nobody's speech. Where memory does not suffice
    no more than half as many are spoken at once; where something else is wrong that a user can mend, they are halved
    until those whose fault it is are alone. A defect of the program or of a plug-in ends the command.

    Args:
        model: who speaks.
        mode: how they are asked for.
        options: how to decode.
        jobs: utterance → what to speak.

    Returns:
        What became of each, and what it cost.
    """
    speaker = model.load()
    results: dict[str, Speech | str] = {}
    given: dict[str, Request] = {}
    for name, job in jobs.items():
        try:
            given[name] = job.read(speaker, name, mode)
        except (UserError, OSError) as error:
            results[name] = f"bad {mode.material}: {error}"
    timings = [Timing()]
    waiting = [list(given)] if given else []
    while waiting:
        names = waiting.pop()
        half = len(names) // 2
        parts = [names[:half], names[half:]]
        try:
            speeches = speaker.speak_all(mode, names, [given[name] for name in names], options, warn=False)
        except UserError as error:
            reason = f"cannot be spoken: {error}"
        except Exception as error:
            if not is_out_of_memory(error):
                error.add_note(f"while speaking {', '.join(names)} with {_plug_ins(mode, options, speaker)}")
                raise
            speaker.free_graphs()
            reason = f"cannot be spoken: out of memory, alone: {error}"
            if 1 < (rows := speaker.most_rows or len(names)) < len(names):
                parts = [names[first : first + rows // 2] for first in range(0, len(names), rows // 2)]
            if half:
                logging.warning("out of memory with %d utterances at once: going on with half as many", len(names))
        else:
            timings += {id(one.timing): one.timing for one in speeches}.values()  # of several batches, with long texts
            results |= {name: write_sound(speaker, jobs[name], one) for name, one in zip(names, speeches, strict=True)}
            continue
        # outside of the handlers, whose error keeps the failed batch's tensors alive
        if half:
            waiting += reversed(parts)
        else:
            results[names[0]] = reason
    return results, total(timings)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is Python, torch on a GPU or torch on a CPU that asked for more memory than there is."""
    told = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (isinstance(error, RuntimeError) and told)


def _plug_ins(mode: Mode, options: DecodeOptions, speaker: Speaker) -> str:
    """What may come from other packages, and where it is defined, for the traceback of a defect."""
    parts = (f"decoding {options.decoding}", options.strategy), ("codec", speaker.codec), ("mode", mode)
    return ", ".join(f"{what} ({type(part).__module__}.{type(part).__qualname__})" for what, part in parts)


def write_sound(speaker: Speaker, job: Job, speech: Speech) -> Speech:
    """Write the audio files of an utterance; what the tables need of it comes back: int32 codes, and no sound."""
    for path, samples in ((job.wav, speech.waveform), (job.whole, speech.whole)):
        if path is not None and samples is not None:
            write_wav(path, samples, speaker.codec.spec.sample_rate_hz)
    nothing = np.zeros(0, dtype=np.float32)
    names = ("prompt_sec", "prompt_used_sec", "unknown", "words", "runaway", "retries")
    told = {name: getattr(speech, name) for name in names}
    return Speech(speech.codes.astype(np.int32), nothing, speech.has_eos, speech.logprob, **told)


def write_tables(
    directory: Path, mode: Mode, plan: Plan, spoken: Mapping[str, Speech], skipped: Mapping[str, str]
) -> None:
    """Write codes, wav.scp, score, status, times of words, and whose voice was given; with what was given, likewise."""
    with codes_writer(directory) as write:
        for utt in sorted(spoken):
            write(utt, spoken[utt].codes)
    write_scp(directory / "wav.scp", {utt: wav_of(directory, utt) for utt in spoken})
    write_scp(directory / "score", {utt: f"{result.logprob:.4f}" for utt, result in spoken.items()})
    status = {utt: "ok" if result.has_eos else "no_eos" for utt, result in spoken.items()}
    status |= dict.fromkeys(skipped, "skipped")
    write_scp(directory / "status", status)
    write_ctm(directory / WORDS_NAME, {utt: result.words for utt, result in spoken.items()})
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
