"""One table of quality and speed: checkpoints × strategies × settings, decoded with several seeds and evaluated."""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tqdm import tqdm

from espnet_ext.bin import codec_lm_inference, run
from espnet_ext.bin.speaking import add_fast_options
from espnet_ext.data.datadir import read_scp
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record
from espnet_ext.jobs.workers import add_force_option
from espnet_ext.options import check_number
from espnet_ext.registries import strategies
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.lock import claim
from espnet_ext.storage.yaml_files import read_yaml

if TYPE_CHECKING:
    from espnet_ext.inference.sweep import Cell

FAILED_NAME, SOURCES_NAME = "failed.yaml", "sources.yaml"


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--exp", action="append", type=Path, required=True, help="experiment directory; repeatable, for other S as well"
    )
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="codes of the test set: text, prompt.scp, codes.scp"
    )
    parser.add_argument("--decodings", default="parallel local_ar", help=f"strategies, of {list(strategies)}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE,…",
        help="option of strategies (n_rounds=1,3,8), of the sampler (temperature=0.6,0.8) or of the order of a model "
        "(rounds=1,8) to vary, the first of these that has it; repeatable",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=1, help="outputs of each cell, with seeds seed, seed + 1, …")
    parser.add_argument(
        "--conf_dir",
        type=Path,
        help="directory with decode_<strategy>.yaml, for what is not varied; behind it the experiment's decode/, "
        "conf/ and the conf/ of its recipe are looked at",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="for the speech, scores.json and RESULTS.md")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the language model runs")
    parser.add_argument("--batch_size", type=int, default=16, help="utterances at once; speeds are of this size")
    parser.add_argument("--num_threads", type=int, default=1, help="threads of the language model and the codec")
    add_fast_options(parser)
    parser.add_argument("--nj", type=int, default=2, help="processes of the evaluation; decoding has one, to be timed")
    parser.add_argument("--system", action="append", default=[], metavar="NAME=DIR", help="a further row; repeatable")
    text = "words that the recogniser knows besides the test set's: those of the trainings, or none"
    parser.add_argument("--asr_vocabulary", default="train", choices=["train", "test"], help=text)
    parser.add_argument("--evaluate_args", default="", help="further options of espnet_ext.bin.evaluate")
    add_force_option(parser)
    parser.add_argument("--skip_evaluation", action="store_true", help="decode only")
    return parser


def served(cells: Sequence[Cell], device: str) -> tuple[list[Cell], dict[str, str]]:
    """Cells that the heads of their models serve, and the others with the reason.

    Args:
        cells: all of them.
        device: where the models run.

    Returns:
        The cells, and name → reason.

    Raises:
        FileNotFoundError: if a file of a model is missing.
        UserError: if a model is damaged.
    """
    from espnet_ext.inference.model_ref import ModelRef

    possible, refused = [], {}
    for cell in cells:
        speak = ModelRef(cell.checkpoint.exp, None, device).load()
        try:
            speak.check(cell.options)
        except UserError as error:
            refused[cell.name] = str(error)
            logging.warning("%s is left out: %s", cell.name, error)
            continue
        possible.append(cell)
    return possible, refused


def place(args: argparse.Namespace, cell: Cell, repeat: int) -> Path:
    """Directory of an output: as in a recipe, the experiment is two above it."""
    tail = f"decode_{cell.name.partition('_')[2]}" + (f"_seed{cell.options.seed + repeat}" if repeat else "")
    return args.output_dir / cell.checkpoint.exp.name / tail / args.data_dir.name


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """How outputs are decoded besides their options; what is not asked for is left out."""
    from espnet_ext.inference.options import fast_choices

    how = {name: getattr(args, name) for name in ("device", "batch_size", "num_threads")}
    return how | {name: value for name, value in fast_choices(args).items() if value}


def inference_args(args: argparse.Namespace, cell: Cell, output: Path) -> argparse.Namespace:
    """The options of codec_lm_inference for an output."""
    return codec_lm_inference.options_for(cell.checkpoint.exp, args.data_dir, output, machine(args))


def decode(args: argparse.Namespace, cell: Cell, repeat: int) -> None:
    """Make one output, unless that was done.

    Args:
        args: options of this command.
        cell: what to decode.
        repeat: its number; the first has the seed of the cell.

    Raises:
        UserError: if nothing can be spoken.
    """
    from espnet_ext.inference.model_ref import model_files

    options = replace(cell.options, seed=cell.options.seed + repeat)
    output = place(args, cell, repeat)
    inputs = model_files(cell.checkpoint.exp) + [args.data_dir / name for name in ("text", "prompt.scp")]
    record = Record.of(output, {**machine(args), **options.given()}, inputs)
    record.make(lambda: codec_lm_inference.decode(inference_args(args, cell, output), options), args.force)


def warm_up(args: argparse.Namespace, cell: Cell) -> None:
    """Speak a sentence that nobody times: the first one on a GPU waits for its libraries.

    Args:
        args: options of this command.
        cell: whose model speaks.
    """
    from espnet_ext.inference.options import model_of

    model = model_of(inference_args(args, cell, place(args, cell, 0)))  # the one that is loaded for the output
    speak = model.load()
    text = next(text for text in read_scp(args.data_dir / "text").values() if text.strip())
    names = [f"warm-up {row}" for row in range(args.batch_size if args.device == "cuda" else 1)]
    speak.codes(names, [text] * len(names), [None] * len(names), cell.options)


def decode_all(args: argparse.Namespace, cells: Sequence[Cell]) -> dict[str, str]:
    """Decode cell after cell, nothing beside it, so that speeds can be compared; one that fails does not stop the rest.

    Args:
        args: options of this command.
        cells: what to decode.

    Returns:
        Name of the cells that failed → reason.
    """
    failed: dict[str, str] = {}
    warm: set[object] = set()
    with tqdm(total=len(cells) * args.repeats, desc="sweep", unit="output") as bar:
        for cell in cells:
            for repeat in range(args.repeats):
                bar.set_description(f"sweep {cell.name}" + (f" ({repeat + 1} of {args.repeats})" if repeat else ""))
                if cell.name not in failed:
                    try:
                        # a GPU's graphs are of a cell
                        to_warm = cell.checkpoint.exp if args.device == "cpu" else cell.name
                        if to_warm not in warm:
                            warm_up(args, cell)
                            warm.add(to_warm)
                        decode(args, cell, repeat)
                    except (UserError, OSError) as error:
                        failed[cell.name] = " ".join(str(error).split())
                        logging.error("%s failed: %s", cell.name, failed[cell.name])
                bar.update()
    return failed


def training_texts(exps: Sequence[Path], data_dir: Path) -> list[Path]:
    """The texts that models were trained on, as a recipe's scores take the recogniser's words from them.

    Args:
        exps: experiment directories.
        data_dir: codes of the test set, beside which they are looked for first, as recipes may be moved.

    Returns:
        Files; one that is not there is left out with a warning.
    """
    found: dict[Path, None] = {}
    for exp in exps:
        data = read_yaml(exp / "config.yaml", "config.yaml").get("train_data_path_and_name_and_type") or []
        for text in [Path(path) for path, name, _ in data if name == "text"]:
            places = [data_dir.parent / text.parent.name / text.name, text]
            there = next((path for path in places if path.is_file()), None)
            if there is None:
                logging.warning("%s of %s is not there: the recogniser hears words of the test set alone", text, exp)
            else:
                found[there] = None
    return list(found)


def evaluation(args: argparse.Namespace, cells: Iterable[Cell]) -> list[str]:
    """The command line of the evaluation of all cells.

    Args:
        args: options of this command.
        cells: what was decoded.

    Returns:
        Words.
    """
    codec_info = args.data_dir / "codec_info.yaml"
    command = ["--codec_info", str(codec_info), "--reference", str(args.data_dir), "--nj", str(args.nj)]
    command += ["--output_dir", str(args.output_dir), "--keep_work", "--system", f"original={args.data_dir}"]
    for pair in args.system:
        command += ["--system", pair]
    for cell in cells:
        command += ["--system", f"{cell.name}={place(args, cell, 0)}"]
        for repeat in range(1, args.repeats):
            command += ["--repeat", f"{cell.name}={place(args, cell, repeat)}"]
    for exp in args.exp:
        command += ["--train_dir", str(exp)]
    for text in training_texts(args.exp, args.data_dir) if args.asr_vocabulary == "train" else []:
        command += ["--vocabulary_text", str(text)]
    return [*command, *(["--force"] if args.force else []), *args.evaluate_args.split()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Decode and evaluate what was not decoded and evaluated before.

    Args:
        arguments: command line without the program name; None takes it from the process

    Raises:
        FileNotFoundError: if a cell has no decode yaml, so that it would be sampled otherwise than its neighbours
        UserError: if an option is impossible, no cell is left, or some failed
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = get_parser().parse_args(arguments)

    from espnet_ext.inference.decode_yaml import find_base
    from espnet_ext.inference.model_ref import ModelRef
    from espnet_ext.inference.options import fast_choices
    from espnet_ext.inference.sweep import Checkpoint, check_settings, parse_settings, plan

    check_number("repeats", args.repeats, least=1, whole=True)
    ModelRef(args.exp[0], None, args.device, **fast_choices(args)).fast()
    decodings = args.decodings.split()
    for name in decodings:
        strategies.check_options(name, {})  # which refuses a name that there is not
    settings = parse_settings(args.set)
    bases = [[find_base(exp, args.conf_dir, name) for name in decodings] for exp in args.exp]
    check_settings(settings, itertools.chain(*bases))
    cells, refused = served(plan([Checkpoint.read(exp) for exp in args.exp], bases, settings), args.device)
    if not cells:
        raise UserError(f"--decodings must have one that the models serve, got {args.decodings!r}: {refused}")
    for cell in cells:
        logging.info("%s is decoded as %s says", cell.name, cell.source)
    with claim(args.output_dir):
        decode_and_evaluate(args, cells, refused)


def decode_and_evaluate(args: argparse.Namespace, cells: Sequence[Cell], refused: Mapping[str, str]) -> None:
    """Make the table.

    Args:
        args: options of this command.
        cells: what to decode.
        refused: what is left out, and why.

    Raises:
        UserError: if some cells failed.
    """
    with atomic_path(args.output_dir / SOURCES_NAME) as temporary:
        sources = {cell.name: str(cell.source) for cell in cells}
        temporary.write_text(yaml.safe_dump(sources, sort_keys=False), encoding="utf-8")
    failed = decode_all(args, cells)
    with atomic_path(args.output_dir / FAILED_NAME) as temporary:
        temporary.write_text(
            yaml.safe_dump({"left_out": dict(refused), "failed": failed}, sort_keys=False), encoding="utf-8"
        )
    finished = [cell for cell in cells if cell.name not in failed]
    if finished and not args.skip_evaluation:
        from espnet_ext.bin import evaluate  # here: its imports take seconds, which a decoding machine may not need

        evaluate.main(evaluation(args, finished))
    if failed:
        raise UserError(f"{len(failed)} of {len(cells)} cells failed, see {args.output_dir / FAILED_NAME}")


if __name__ == "__main__":
    run(main)
