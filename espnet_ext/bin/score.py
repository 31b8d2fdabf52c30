"""Stage 10, score: error rate, voice, codec Fréchet distance, length and speed of several systems on one test set."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_ext.atomic import atomic_path
from espnet_ext.bin import run
from espnet_ext.datadir import read_scp
from espnet_ext.jobs import Workers, add_worker_options
from espnet_ext.scoring.environment import environment
from espnet_ext.scoring.system import (
    WHOLE_NAME,
    Reference,
    System,
    load_reference,
    load_system,
    load_untranscribed,
)

SCORES_NAME, PAGE_NAME, WORK_NAME = "scores.json", "RESULTS.md", "work"


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--codec_info", type=Path, required=True, help="codec_info.yaml of the codes")
    parser.add_argument(
        "--reference", type=Path, required=True, help="directory of the test set's codes and data files"
    )
    parser.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="row name and directory with wav.scp; repeatable",
    )
    parser.add_argument(
        "--untranscribed", action="append", default=[], metavar="NAME=DIR",
        help="the same of speech that has no text, and therefore no error rate; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--train_dir", action="append", default=[], type=Path, help="training to draw learning curves of; repeatable"
    )
    parser.add_argument(
        "--compare", nargs=2, action="append", default=[], metavar=("NAME", "NAME"),
        help="difference between two systems; repeatable; without it those to the parallel one of each experiment",
    )  # fmt: skip
    parser.add_argument(
        "--frechet_reference", type=Path, help="measure the distance to these codes, not the test set's"
    )
    parser.add_argument(
        "--vocabulary_text", action="append", default=[], type=Path,
        help="texts whose words the recogniser may hear, too, such as the training set's; repeatable",
    )  # fmt: skip
    parser.add_argument("--output_dir", type=Path, required=True, help=f"for {SCORES_NAME}, {PAGE_NAME} and figures")
    parser.add_argument("--title", help="heading in the results; default: name of the reference directory")
    add_worker_options(parser)
    parser.add_argument("--num_bootstrap", type=int, default=1000, help="resamples of the utterances")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_argument("--num_spectrograms", type=int, default=3, help="sentences shown")
    parser.add_argument("--force", action="store_true", help="score again even if nothing changed")
    return parser


def parse_systems(pairs: Iterable[str], option: str = "system", taken: Iterable[str] = ()) -> dict[str, Path]:
    """Directories of the systems by name.

    Args:
        pairs: NAME=DIR each.
        option: where they come from.
        taken: names that others have.

    Returns:
        Name → directory, in the given order.

    Raises:
        ValueError: if one has no "=", or a name occurs twice.
    """
    systems: dict[str, Path] = {}
    taken = set(taken)
    for pair in pairs:
        name, _, directory = pair.partition("=")
        if not name or not directory:
            raise ValueError(f"--{option} must be NAME=DIR, got {pair!r}")
        if name in systems or name in taken:
            raise ValueError(f"--{option} must have different names, got {name!r} twice")
        systems[name] = Path(directory)
    return systems


def input_files(args: argparse.Namespace, directories: Iterable[Path]) -> list[Path]:
    """Everything that the scores depend on and that exists.

    Args:
        args: the options.
        directories: of the systems.

    Returns:
        Files.
    """
    tables = ["text", "utt2spk", "utt2prompt", "wav.scp", "codes.scp", "codes.ark", "status", "timing.json"]
    tables.append(WHOLE_NAME)
    folders = [args.reference, *directories, *([args.frechet_reference] if args.frechet_reference else [])]
    files = [args.codec_info, *args.vocabulary_text, *(folder / name for folder in folders for name in tables)]
    files += [folder / name for folder in args.train_dir for name in ("checkpoint.pth", "train.log")]
    for table in (folder / name for folder in folders for name in ("wav.scp", WHOLE_NAME)):
        if table.is_file():
            files += [Path(wav) for wav in read_scp(table).values()]
    return [path for path in files if path.is_file()]


def is_up_to_date(scores: Path, request: Mapping[str, Any], inputs: Iterable[Path]) -> bool:
    """Whether scores were made with these options after the last change of any input, and nothing of them is lost.

    Args:
        scores: scores.json.
        request: the options that matter.
        inputs: files.

    Returns:
        True if there is nothing to do.
    """
    try:
        found = json.loads(scores.read_text(encoding="utf-8"))
        made = scores.stat().st_mtime_ns
        complete = all(Path(path).is_file() for path in [scores.parent / PAGE_NAME, *found["figures"].values()])
        return complete and found["request"] == request and all(path.stat().st_mtime_ns <= made for path in inputs)
    except (OSError, KeyError, TypeError, AttributeError, ValueError):  # missing, or not a file of this command
        return False


def draw_figures(
    args: argparse.Namespace, reference: Reference, systems: Sequence[System], result: Mapping[str, Any]
) -> dict[str, str]:
    """Write all figures; a training without a curve is a warning, because scores are right without it.

    Args:
        args: the options.
        reference: the test set.
        systems: the systems.
        result: from `evaluate`.

    Returns:
        Caption → path.
    """
    from espnet_ext.scoring import figures
    from espnet_ext.scoring.learning_curve import read_learning_curves

    paths = {"word error rate": args.output_dir / "figures" / "wer.png"}
    figures.error_bars(result["systems"], args.title, paths["word error rate"])
    utt2spk = {utterance: reference.utt2spk[utterance] for utterance in reference.transcripts}
    chosen = figures.choose_utterances(utt2spk, [system.whole for system in systems], args.num_spectrograms)
    if chosen:
        paths["spectrograms"] = args.output_dir / "figures" / "spectrograms.png"
        heard = {name: scores["hypotheses"] for name, scores in result["systems"].items()}
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


def score(
    args: argparse.Namespace, directories: Mapping[str, Path], untranscribed: Mapping[str, Path]
) -> dict[str, Any]:
    """Evaluate, draw, and write the page.

    Args:
        args: the options.
        directories: name → directory of a system.
        untranscribed: the same of those that have no text.

    Returns:
        Contents of scores.json.
    """
    # here, not above: they take seconds to import, which workers do not need
    from espnet_ext.codec import load_codec
    from espnet_ext.scoring.evaluate import Settings, evaluate

    started = time.perf_counter()
    codec = load_codec(args.codec_info)
    reference = load_reference(args.reference)
    systems = [load_system(name, directory, reference.transcripts) for name, directory in directories.items()]
    free = [load_untranscribed(name, directory) for name, directory in untranscribed.items()]
    pairs = tuple((first, second) for first, second in args.compare)
    vocabulary = tuple(text for path in args.vocabulary_text for text in read_scp(path).values())
    workers = Workers(args.nj, args.dask_scheduler)
    folder = args.output_dir / WORK_NAME
    settings = Settings(workers, vocabulary, args.num_bootstrap, args.seed, pairs, args.frechet_reference, folder)
    result = evaluate(reference, systems, codec, settings, free)
    result = {"title": args.title, "environment": environment(), **result}
    result["figures"] = draw_figures(args, reference, systems, result)
    result["seconds"] = round(time.perf_counter() - started, 1)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Score, unless that was done after the last change of any input.

    Args:
        arguments: command line without the program name; None takes it from the process

    Raises:
        ValueError: if an option has an impossible value
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = get_parser().parse_args(arguments)
    args.title = args.title or args.reference.name
    Workers(args.nj, args.dask_scheduler)
    for name, least in (("num_bootstrap", 1), ("num_spectrograms", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    systems = parse_systems(args.system)
    if not systems:
        raise ValueError("--system must be given at least once")
    untranscribed = parse_systems(args.untranscribed, "untranscribed", systems)
    # through JSON and back, to be compared with what a file says; processes change the time only
    wanted = {name: value for name, value in vars(args).items() if name not in ("nj", "dask_scheduler", "force")}
    request = json.loads(json.dumps(wanted, default=str))
    scores = args.output_dir / SCORES_NAME
    if not args.force and is_up_to_date(
        scores, request, input_files(args, [*systems.values(), *untranscribed.values()])
    ):
        logging.info("%s is newer than all its inputs: nothing to do", scores)
        return
    from espnet_ext.scoring.report import results_page

    result = {**score(args, systems, untranscribed), "request": request}
    with atomic_path(args.output_dir / PAGE_NAME) as temporary:
        temporary.write_text(results_page([result], args.output_dir), encoding="utf-8")
    with atomic_path(scores) as temporary:  # last: it says that everything else is there
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    shutil.rmtree(args.output_dir / WORK_NAME, ignore_errors=True)
    logging.info("scored in %.0f s: %s", result["seconds"], args.output_dir / PAGE_NAME)


if __name__ == "__main__":
    run(main)
