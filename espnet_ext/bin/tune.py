"""The sampling of each strategy, chosen on a development set: fewest word errors, then closest codes.

For each strategy temperature, guidance and top-k are tried one after the other, each with the values that were chosen
before it. Of all settings whose word error rate cannot be told from the lowest one (paired bootstrap over utterances),
that with the lowest codec Fréchet distance is taken, and written into the experiment as decode/decode_<strategy>.yaml.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tqdm import tqdm

from espnet_ext.bin import codec_lm_inference, run
from espnet_ext.bin.speaking import add_fast_options
from espnet_ext.data.ark import read_codes
from espnet_ext.data.datadir import read_scp
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record, Workers, add_worker_options
from espnet_ext.options import check_number
from espnet_ext.registries import strategies
from espnet_ext.scoring.compared import SAME_CODES
from espnet_ext.scoring.evaluators.evaluator import Choice, Unheard, evaluate_files
from espnet_ext.scoring.measures.bootstrap import Resamples
from espnet_ext.scoring.measures.words import errors_of, rate, spelt_for, words_to_hear
from espnet_ext.scoring.options import add_evaluator_option, add_vocabulary_option, parse_evaluators, texts_of
from espnet_ext.scoring.tables.tuning_table import tuning_page, tuning_table
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.lock import claim
from espnet_ext.tuning.candidates import Grid, Tried, choose, in_words, name_of, reason, search

if TYPE_CHECKING:
    from espnet_ext.decoding.options import DecodeOptions
    from espnet_ext.inference import Speaker
    from espnet_ext.tuning.development_set import TuningSet

RESULT_NAME, PAGE_NAME, HEARD_NAME = "tuned.json", "TUNED.md", "heard.json"
HOW = ("batch_size", "num_threads", "device", "nj", "model_file", "dask_scheduler")  # options of the decoding itself
DISTANCE_RESAMPLES = 200  # each needs the roots of two covariances; intervals of many settings need not cost minutes


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of an option, separated by commas.

    >>> numbers("0,0.5"), numbers("80")
    ((0, 0.5), (80,))
    """
    values = [yaml.safe_load(part) for part in text.split(",")]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        raise UserError(f"must be numbers separated by commas, got {text!r}")
    return tuple(values)


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment directory; gets decode/decode_*.yaml")
    parser.add_argument("--model_file", help="weights inside of it; default: the average of the best epochs")
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="development set: text, utt2spk, codes.scp, prompts"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="for tuned.json, TUNED.md and unfinished work")
    parser.add_argument(
        "--decodings", default="", help=f"strategies, of {list(strategies)}; default: all that the model serves"
    )
    parser.add_argument(
        "--conf_dir", action="append", type=Path, metavar="DIR",
        help="directory with decode_<strategy>.yaml, what is not tuned; repeatable: the first that has it [conf]",
    )  # fmt: skip
    for name in ("temperature", "cfg_scale", "top_k"):
        values = ",".join(map(str, getattr(Grid, name)))
        parser.add_argument(f"--{name}", type=numbers, default=getattr(Grid, name), help=f"values to try [{values}]")
    parser.add_argument(
        "--per_codebook", action="store_true", help="try a colder and a warmer codebook 0 at last, the others alike"
    )
    parser.add_argument("--limit", type=int, default=0, help="most utterances, of all speakers in turn; 0 for all")
    parser.add_argument(
        "--not_these", action="append", default=[], type=Path, metavar="DIR",
        help="refuse the utterances of this directory, a test set or the training set; repeatable",
    )  # fmt: skip
    add_evaluator_option(parser, "asr")
    add_vocabulary_option(parser)
    parser.add_argument("--num_bootstrap", type=int, default=1000, help="resamples of the utterances")
    parser.add_argument("--batch_size", type=int, default=16, help="utterances at once")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the language model runs")
    parser.add_argument("--num_threads", type=int, default=1, help="threads of each process")
    add_worker_options(parser)
    add_fast_options(parser)
    parser.add_argument("--keep_speech", action="store_true", help="keep the audio of everything that is tried")
    parser.add_argument("--log_level", default="INFO")
    return parser


@dataclass(frozen=True)
class Bench:
    """Where settings are tried.

    Attributes:
        args: the options.
        speak: the model.
        listener: the recogniser.
        data: the development set.
        resamples: of its utterances.
        request: options that everything that is tried depends on, plain values.
        inputs: files that it depends on.
        bar: counts what was tried.
    """

    args: argparse.Namespace
    speak: Speaker
    listener: Choice
    data: TuningSet
    resamples: Resamples
    request: Mapping[str, Any]
    inputs: Sequence[Path]
    bar: tqdm[Any]

    def place(self, options: DecodeOptions) -> Path:
        """Directory of a setting."""
        place: Path = self.args.output_dir / "cells" / options.decoding / name_of(options)
        return place

    def measure(self, several: Sequence[DecodeOptions]) -> list[Tried]:
        """Decode and score settings, unless that was done."""
        from espnet_ext.scoring.measures.frame_distance import frame_distances

        reference, texts = self.data.reference, self.data.reference.transcripts
        heard = [self._heard(options) for options in several]
        codebooks = self.speak.corelm.spec.num_codebooks
        tables = {str(self.place(one)): [read_codes(self.place(one) / "codes.scp", codebooks)] for one in several}
        fewer = Resamples(self.resamples.utterances[:DISTANCE_RESAMPLES], self.resamples.seed)
        distances, _ = frame_distances(self.speak.codec, reference, tables, None, fewer)
        tried = []
        for options, words in zip(several, heard, strict=True):
            wer, draws = rate(errors_of(spelt_for(self.listener, texts), [words]), self.resamples)
            tried.append(Tried(options, wer, draws, distances[str(self.place(options))]))
        return tried

    def _heard(self, options: DecodeOptions) -> dict[str, str]:
        """What the recogniser hears of a setting: utterance → words."""
        from espnet_ext.inference.options import fast_choices

        self.bar.set_description(f"tune {options.decoding} ({in_words(options)})")
        place = self.place(options)

        def make() -> None:
            how = {name: getattr(self.args, name) for name in HOW} | fast_choices(self.args)
            data_dir = self.data.reference.directory
            codec_lm_inference.decode(codec_lm_inference.options_for(self.args.exp, data_dir, place, how), options)
            with atomic_path(place / HEARD_NAME) as temporary:
                temporary.write_text(json.dumps(self._listen(place), ensure_ascii=False) + "\n", encoding="utf-8")
            if not self.args.keep_speech:
                shutil.rmtree(place / "wav", ignore_errors=True)

        record = Record.of(place, {**self.request, **options.complete()}, self.inputs)
        record.make(make, self.args.force, [place / HEARD_NAME, place / "codes.scp"])
        self.bar.update()
        words: dict[str, str] = json.loads((place / HEARD_NAME).read_text(encoding="utf-8"))
        return words

    def _listen(self, place: Path) -> dict[str, str]:
        wavs = {utterance: Path(path) for utterance, path in read_scp(place / "wav.scp").items()}
        workers = Workers(self.args.nj, self.args.dask_scheduler)
        folder = place / "work" if self.args.dask_scheduler else None  # a place that all workers see
        said = evaluate_files(self.listener, {"speech": wavs}, workers, folder)["speech"]
        shutil.rmtree(place / "work", ignore_errors=True)
        return {one: "" if isinstance(text, Unheard) else text for one, text in said.items()}


def served(args: argparse.Namespace, speak: Speaker) -> tuple[list[DecodeOptions], dict[str, str]]:
    """Strategies to tune, and those that are left out with the reason.

    Args:
        args: the options.
        speak: the model.

    Returns:
        Options to begin with, and strategy → reason.

    Raises:
        UserError: if a strategy or its yaml is wrong, or none is left.
    """
    from espnet_ext.decoding.options import DecodeOptions
    from espnet_ext.inference.decode_yaml import first_yaml, for_model, read_options

    possible, refused = [], {}
    # a strategy with the codes of another one follows it
    names = sorted(dict.fromkeys(args.decodings.split() or strategies), key=lambda name: name in SAME_CODES)
    places = args.conf_dir or [Path("conf")]
    for name in names:
        found, paths = first_yaml(places, name)
        if found is None:
            logging.warning("none of %s is there: tuning of %s begins with its defaults", [*map(str, paths)], name)
            base = DecodeOptions(name).for_objective(speak.corelm.objective)
        else:
            base = for_model(read_options(found, name, DecodeOptions), found, speak.corelm.objective)
        try:
            speak.check(base)
        except UserError as error:
            refused[base.decoding] = str(error)
            logging.warning("%s is left out: %s", base.decoding, error)
            continue
        possible.append(base)
    if not possible:
        raise UserError(f"--decodings must have one that the model serves, got {args.decodings!r}: {refused}")
    return possible, refused


def tune(base: DecodeOptions, grid: Grid, bench: Bench) -> tuple[DecodeOptions, dict[str, Any]]:
    """The best sampling of one strategy, and all that was tried.

    Args:
        base: the strategy, and what is not tuned.
        grid: the values.
        bench: where settings are tried.

    Returns:
        The options, and plain values.
    """
    model = bench.speak.corelm
    tried = search(base, grid, bench.measure, model.spec.num_codebooks, model.conditioning_dropout > 0)
    choice = choose(tried)
    cells = {}
    for one, ends in zip(tried, choice.differences, strict=True):
        cells[name_of(one.options)] = {
            "sampling": one.options.complete()["sampling"],
            "sampling_in_words": in_words(one.options),
            "wer": asdict(one.wer),
            "difference": ends,
            "frechet": {name: getattr(one.frechet, name) for name in ("distance", "corrected", "interval")},
        }
    chosen = choice.chosen.options
    return chosen, {"cells": cells, "chosen": name_of(chosen), "why": reason(choice, tried)}


def tune_all(
    bases: Sequence[DecodeOptions], grid: Grid, bench: Bench, say: Callable[[str], object]
) -> dict[str, dict[str, Any]]:
    """Tune strategy after strategy, and write the decode yaml of each when it is known.

    Args:
        bases: strategies, and what is not tuned.
        grid: the values.
        bench: where settings are tried.
        say: shows text.

    Returns:
        Strategy → what came of it, plain values.
    """
    from espnet_ext.inference.decode_yaml import keep

    found: dict[str, dict[str, Any]] = {}
    chosen: dict[str, DecodeOptions] = {}
    for base in bases:
        same = SAME_CODES.get(base.decoding)
        if same in chosen:
            options = replace(base, sampling=chosen[same].sampling)
            why = f"It has the codes of {same}: {in_words(options)}."
            result: dict[str, Any] = {"cells": {}, "chosen": name_of(options), "why": why}
        else:
            before = bench.bar.n
            options, result = tune(base, grid, bench)
            bench.bar.total -= grid.cells - (bench.bar.n - before)
        chosen[base.decoding] = options
        chosen_on = f"Chosen by espnet_ext.bin.tune on {bench.args.data_dir}."
        result["config"] = str(keep(bench.args.exp, options, chosen_on, result["why"]))
        found[base.decoding] = result
        table = tuning_table(result["cells"], result["chosen"]) if result["cells"] else ""
        say(f"\n{base.decoding}\n{table}{result['why']}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune, and write what was tried, what was chosen and why.

    Args:
        arguments: command line without the program name; None takes it from the process

    Raises:
        UserError: if an option or the development set is not usable.
    """
    args = get_parser().parse_args(arguments)
    with claim(args.output_dir):
        tune_model(args)


def tune_model(args: argparse.Namespace) -> None:
    """Tune as the options say.

    Args:
        args: options of this command.

    Raises:
        UserError: if an option or the development set is not usable.
    """
    from espnet_ext.inference.model_ref import model_files
    from espnet_ext.inference.options import check_machine, fast_choices
    from espnet_ext.tuning.development_set import read_tuning_set

    check_number("limit", args.limit, least=0, whole=True)
    check_number("num_bootstrap", args.num_bootstrap, least=2, whole=True)
    grid = Grid(args.temperature, args.cfg_scale, args.top_k, args.per_codebook)
    listener = listening(args)
    speak = check_machine(args).load()
    bases, refused = served(args, speak)
    place = args.output_dir / "data" / args.data_dir.name
    data = read_tuning_set(args.data_dir, place, args.limit, args.not_these, args.exp)
    for remark in data.remarks:
        logging.warning("%s", remark)
    reference = data.reference
    vocabulary = [text for path in args.vocabulary_text for text in read_scp(path).values()]
    try:
        hears = words_to_hear(listener, [*reference.transcripts.values(), *vocabulary])
    except UserError as error:  # what follows can do without
        logging.warning("nothing is tuned, and the sampling stays that of the configurations: %s", error)
        return
    inputs = model_files(args.exp, args.model_file) + [place / name for name in ("text", "codes.scp", "prompt.scp")]
    request: dict[str, Any] = {"recogniser": [listener.label(), repr(hears.conf)]}
    request |= {name: getattr(args, name) for name in ("model_file", "batch_size", "num_threads", "device")}
    request |= fast_choices(args)
    resamples = Resamples.draw([reference.utt2spk[one] for one in reference.transcripts], args.num_bootstrap, 0)
    with tqdm(total=grid.cells * sum(SAME_CODES.get(one.decoding) is None for one in bases), unit="setting") as bar:
        bench = Bench(args, speak, hears, data, resamples, request, inputs, bar)
        found = tune_all(bases, grid, bench, bar.write)
    tuned = {
        "experiment": str(args.exp),
        "data_dir": str(args.data_dir),
        "utterances": len(reference.transcripts),
        "words": sum(len(text.split()) for text in reference.transcripts.values()),
        "recogniser": listener.label(),
        "remarks": list(data.remarks),
        "resamples": args.num_bootstrap,
        "grid": asdict(grid),
        "strategies": found,
        "left_out": refused,
    }
    write(args.output_dir, tuned)


def listening(args: argparse.Namespace) -> Choice:
    """The recogniser that the options name.

    Args:
        args: the options.

    Returns:
        The recogniser.

    Raises:
        UserError: if there is none, or it is not installed.
    """
    chosen = parse_evaluators(args, texts_of(args.data_dir, args.vocabulary_text), ["asr"])["asr"]
    if not chosen:
        raise UserError("--asr must be a recogniser, whose words are counted, got 'none'")
    reason = chosen[0].unavailable()
    if reason is not None:
        raise UserError(f"--asr must be installed, got {chosen[0].name!r}: {reason}")
    return chosen[0]


def write(directory: Path, tuned: Mapping[str, Any]) -> None:
    """Write tuned.json and TUNED.md.

    Args:
        directory: for both.
        tuned: what was tried and chosen.
    """
    with atomic_path(directory / PAGE_NAME) as temporary:
        temporary.write_text(tuning_page(json.loads(json.dumps(tuned))), encoding="utf-8")
    with atomic_path(directory / RESULT_NAME) as temporary:
        content = json.dumps(tuned, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(content + "\n", encoding="utf-8")
    logging.info("%s", directory / PAGE_NAME)


if __name__ == "__main__":
    run(main)
