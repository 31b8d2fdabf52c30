"""Stage score: words, voice, opinion scores, distances, length and speed of several systems on one test set."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from espnet_ext import __version__
from espnet_ext.bin import run
from espnet_ext.data.datadir import read_scp
from espnet_ext.data.speaker_prompt import PROMPT_WAV_NAME, PROMPTS_NAME
from espnet_ext.jobs import Record, Workers
from espnet_ext.scoring.environment import environment
from espnet_ext.scoring.evaluators.evaluator import Choice
from espnet_ext.scoring.options import Named, add_options, check_options, parse_evaluators, texts_of
from espnet_ext.scoring.scores import Scores, write_scores
from espnet_ext.scoring.system import (
    WHOLE_NAME,
    Reference,
    System,
    load_reference,
    load_system,
    load_untranscribed,
)
from espnet_ext.storage.atomic import atomic_path

SCORES_NAME, PAGE_NAME, WORK_NAME = "scores.json", "RESULTS.md", "work"


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_options(parser)
    return parser


def input_files(args: argparse.Namespace, directories: Iterable[Path]) -> list[Path]:
    """Everything that the scores depend on.

    Args:
        args: the options.
        directories: of the systems.

    Returns:
        Files, and tables of files.
    """
    tables = ["text", "utt2spk", PROMPTS_NAME, "wav.scp", "codes.scp", "codes.ark", "status", "timing.json", WHOLE_NAME]
    tables += [PROMPT_WAV_NAME]
    folders = [args.reference, *directories, *([args.frechet_reference] if args.frechet_reference else [])]
    files = [args.codec_info, *args.vocabulary_text, *(folder / name for folder in folders for name in tables)]
    return files + [folder / name for folder in args.train_dir for name in ("checkpoint.pth", "train.log")]


def made_files(directory: Path) -> list[Path]:
    """What an evaluation writes: the scores, the page, and the figures that the scores name."""
    scores = directory / SCORES_NAME
    try:
        figures = [Path(path) for path in json.loads(scores.read_text(encoding="utf-8"))["figures"].values()]
    except (
        OSError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RecursionError,
    ):  # none of ours
        figures = [directory / "figures"]
    return [scores, directory / PAGE_NAME, *figures]


def draw_figures(
    args: argparse.Namespace, reference: Reference, systems: Sequence[System], result: Scores
) -> dict[str, str]:
    """Write all figures, caption → path; a training without a curve is a warning: scores are right without it."""
    from espnet_ext.scoring.tables import figures
    from espnet_ext.scoring.tables.learning_curve import read_learning_curves

    paths: dict[str, Path] = {}
    if "wer" not in result.unavailable:
        paths["word error rate"] = args.output_dir / "figures" / "wer.png"
        figures.error_bars(result.systems, args.title, paths["word error rate"])
    utt2spk = {utterance: reference.utt2spk[utterance] for utterance in reference.transcripts}
    chosen = figures.choose_utterances(utt2spk, [system.whole for system in systems], args.num_spectrograms)
    if chosen:
        paths["spectrograms"] = args.output_dir / "figures" / "spectrograms.png"
        heard = {name: scores.hypotheses for name, scores in result.systems.items()}
        wavs = {system.name: system.whole for system in systems}
        shown = {utterance: reference.transcripts[utterance] for utterance in chosen}
        figures.spectrograms(wavs, heard, shown, paths["spectrograms"])
    for folder in args.train_dir:
        try:
            curves = read_learning_curves(folder)
        except (FileNotFoundError, ValueError) as error:
            logging.warning("no learning curve: %s", error)
            continue
        caption = f"learning curves of {folder.name}"
        paths[caption] = args.output_dir / "figures" / f"learning_{folder.name}.png"
        figures.learning_curves(curves, folder.name, paths[caption])
    return {caption: str(path) for caption, path in paths.items()}


def score(args: argparse.Namespace, named: Named, evaluators: Mapping[str, tuple[Choice, ...]]) -> Scores:
    """Evaluate and draw; the scores are complete but for the request."""
    # here, not above: they take seconds to import, which workers do not need
    from espnet_ext.scoring.evaluate import evaluate
    from espnet_ext.scoring.settings import Settings
    from espnet_ext.tokenizers.codec import load_codec

    started = time.perf_counter()
    codec = load_codec(args.codec_info)
    reference = load_reference(args.reference)
    texts = reference.transcripts
    systems = [load_system(name, path, texts, named.repeats.get(name, ())) for name, path in named.systems.items()]
    free = [load_untranscribed(name, directory) for name, directory in named.untranscribed.items()]
    settings = Settings(
        workers=Workers(args.nj, args.dask_scheduler),
        asr=next(iter(evaluators["asr"]), None),
        speaker=next(iter(evaluators["speaker"]), None),
        mos=evaluators["mos"],
        mos_utterances=args.mos_utterances,
        distortion=args.distortion == "true",
        vocabulary=tuple(text for path in args.vocabulary_text for text in read_scp(path).values()),
        vocabulary_of=tuple(map(str, args.vocabulary_text)),
        resamples=args.num_bootstrap,
        seed=args.seed,
        compare=tuple((first, second) for first, second in args.compare),
        frechet_reference=args.frechet_reference,
        codec_info=args.codec_info,
        folder=args.output_dir / WORK_NAME,
    )
    result = evaluate(reference, systems, codec, settings, free)
    listeners = [choice for choices in evaluators.values() for choice in choices if choice.unavailable() is None]
    paths = draw_figures(args, reference, systems, result)
    seconds = round(time.perf_counter() - started, 1)
    return replace(result, title=args.title, environment=environment(listeners), figures=paths, seconds=seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score, unless that was done with the same options and from the same input.

    Args:
        arguments: command line without the program name; None takes it from the process

    Raises:
        UserError: if an option has an impossible value
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = get_parser().parse_args(arguments)
    args.title = args.title or args.reference.name
    named = check_options(args)
    evaluators = parse_evaluators(args, texts_of(args.reference, args.vocabulary_text))
    # through JSON and back, to be compared with what a file says; processes change the time only
    left_out = ("nj", "dask_scheduler", "force", "keep_work")
    wanted = {name: value for name, value in vars(args).items() if name not in left_out}
    labels = [choice.label() for choices in evaluators.values() for choice in choices]
    request = json.loads(json.dumps({**wanted, "evaluators": labels}, default=str))
    record = Record.of(args.output_dir, {**request, "version": __version__}, input_files(args, named.directories))

    def make() -> None:
        if args.force:
            shutil.rmtree(args.output_dir / WORK_NAME, ignore_errors=True)
        write(args, replace(score(args, named, evaluators), request=request))

    record.make(make, args.force, made_files(args.output_dir))


def write(args: argparse.Namespace, result: Scores) -> None:
    """Write the page and scores.json, whose figures are there already."""
    from espnet_ext.scoring.tables.report import results_page

    with atomic_path(args.output_dir / PAGE_NAME) as temporary:
        temporary.write_text(results_page([result], args.output_dir), encoding="utf-8")
    write_scores(result, args.output_dir / SCORES_NAME)
    if not args.keep_work:
        shutil.rmtree(args.output_dir / WORK_NAME, ignore_errors=True)
    logging.info("scored in %.0f s: %s", result.seconds, args.output_dir / PAGE_NAME)


if __name__ == "__main__":
    run(main)
