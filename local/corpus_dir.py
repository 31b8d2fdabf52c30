"""A folder of recordings → data/{train,dev,test}, after checking everything, and one page about it, data/report.md.

python local/corpus_dir.py --corpus recordings --datadir data --conf_dir ../../../conf
"""

from __future__ import annotations

import argparse
import logging
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_ext.bin import run
from espnet_ext.data.corpora import Source, find_layout, layouts
from espnet_ext.data.corpora import page as page_of
from espnet_ext.data.corpora.sizes import SIZES, TextChoice, choose_size, choose_text
from espnet_ext.data.corpora.sound import sample_sounds
from espnet_ext.data.corpora.survey import (
    SPEAKER_FROM,
    Rules,
    gather,
    measure,
    open_store,
    skip_duplicates,
    skip_unreadable,
    split,
    write_sets,
)
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path

if TYPE_CHECKING:
    from espnet_ext.inference.experiment import Experiment

REPORT, CHOSEN = "report.md", "chosen_options"
ALL_SIZES = ("auto", *SIZES, "tiny")


def prepare(args: argparse.Namespace) -> str:
    """Check a corpus, write its data directories, the page about it and the options that suit it.

    Args:
        args: the command's options.

    Returns:
        The page.

    Raises:
        UserError: if nothing of it is usable.
    """
    rules = Rules(args.speaker_from, args.language, args.min_sec, args.max_sec)
    folders = tuple(Path(one) for one in args.audio_dir.split())
    if absent := [str(one) for one in folders if not one.is_dir()]:
        raise UserError(f"--audio_dir must be folders separated by spaces, got {absent[0]}, which is none")
    source = Source(args.corpus, args.encoding, args.delimiter, folders, args.datadir.absolute() / "unpacked")
    layout = find_layout(args.layout, args.corpus)(source)
    experiment = None
    if args.init_from:  # torch and ESPnet are 450 MB and 6 s: they are imported where something needs them
        from from_experiment import open_experiment

        experiment = open_experiment(Path(args.init_from))
    with closing(open_store()) as store:
        gather(store, layout, rules)
        measure(store, rules)
        skip_duplicates(store)
        sounds, bad = sample_sounds(store, args.sample)
        skip_unreadable(store, bad)
        text = choose_text(store) if experiment is None else text_of(store, experiment)
        split(store)
        write_sets(store, args.datadir)
        counts, strange = page_of.characters(store)
        for table, rows in page_of.write_tables(store, counts):
            with atomic_path(args.datadir / table) as temporary, temporary.open("w", encoding="utf-8") as stream:
                stream.writelines(rows)
        training, chosen = choose_training(store, args, text, experiment)
        name = next(one for one in layouts if layouts[one] is type(layout))
        changes = list(page_of.advice(store, sounds, counts, text, args.fs))
        sections = {
            f"# {args.corpus}": [
                f"Layout {name}{': ' * bool(layout.told())}{layout.told()}.",
                *page_of.overview(store),
            ],
            "## Audio": page_of.sound_lines(sounds, bad, store),
            "## Text": page_of.text_lines(counts, strange, text),
            "## Skipped": page_of.skipped_lines(store),
            "## Training": training,
            "## What to change": [f"- {one}" for one in changes] or ["Nothing that these checks can see."],
        }
        page = "\n".join("\n".join([title, "", *lines, ""]) for title, lines in sections.items())
    for path, content in ((REPORT, page), (CHOSEN, "\n".join(chosen) + "\n")):
        with atomic_path(args.datadir / path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return page


def text_of(store: sqlite3.Connection, experiment: Experiment) -> TextChoice:
    """The tokens of an experiment, and what it does not know of the texts."""
    unknown = Counter[str]()
    for (text,) in store.execute("SELECT text FROM usable"):
        unknown.update(experiment.inputs.tokenizer.read(text).unknown)
    reason = f"{experiment.args.token_type}, as {experiment.directory} has them, which says <unk> for others"
    return TextChoice(experiment.args.token_type, getattr(experiment.args, "g2p", "none"), reason, unknown)


def choose_training(
    store: sqlite3.Connection, args: argparse.Namespace, text: TextChoice, experiment: Experiment | None
) -> tuple[list[str], list[str]]:
    """What the page says of the training, and the options of the recipe that suit the corpus.

    Args:
        store: behind `split`.
        args: the command's options.
        text: the tokens.
        experiment: that the training begins with.

    Returns:
        Lines; words of a command line.
    """
    number, seconds, letters = store.execute(
        "SELECT count(*), sum(seconds), sum(length(text)) FROM usable WHERE part = 'train'"
    ).fetchone()
    shape = args.codec, seconds / number, letters / number
    factors = [int(factor) for factor in args.stacking.split(",")]
    if experiment is not None:
        from from_experiment import finetuning_conf, recipe_options

        conf = args.datadir / "finetune.yaml"
        with atomic_path(conf) as temporary:
            temporary.write_text(
                finetuning_conf(experiment, args.conf_dir / "train_own_finetune.yaml"), encoding="utf-8"
            )
        lines = [f"`{conf.name}`: the model of {experiment.directory}, trained further."]
        chosen, factors = (
            ["--train_config", str(conf), *recipe_options(experiment)],
            [experiment.args.frame_stacking_factor],
        )
        shape, trainings = (experiment.args.codec_info["codec"], *shape[1:]), []
    else:
        size, why = choose_size(seconds / 3600) if args.size == "auto" else (args.size, f"--size {args.size} says so")
        name = "train_tiny" if size == "tiny" else f"train_own_{size}"
        conf, base = args.conf_dir / f"{name}.yaml", args.conf_dir / f"{name}_base.yaml"
        lines = [f"Size {size}: {why}; `{conf.name}` behind `{base.name}`."]
        chosen = ["--train_config", f"conf/{conf.name}", "--base_config", f"conf/{base.name}"]
        chosen += ["--token_type", text.token_type, "--g2p", text.g2p]
        trainings = [("base", base, 1)]
    if args.estimate == "yes":
        from training_time import measure_training, time_lines

        trainings += [(f"s{factor}", conf, factor) for factor in factors]
        measured = [measure_training(file, name, factor, *shape) for name, file, factor in trainings]
        lines += ["", *time_lines(measured, shape[0], args.threads, seconds)]
    return lines, chosen


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--datadir", type=Path, required=True, help="folder of train, dev, test and report.md")
    parser.add_argument("--layout", default="auto", help=f"auto, or one of {list(layouts)}")
    parser.add_argument("--audio_dir", default="", help="folders besides the corpus that audio may lie in")
    parser.add_argument("--encoding", default="utf-8", help="of the texts")
    parser.add_argument("--delimiter", default="", help="of the columns of metadata.csv; empty: | or tab or comma")
    parser.add_argument("--speaker_from", default="auto", help=f"one of {SPEAKER_FROM}")
    parser.add_argument("--language", default="", help="of utterances that name none, such as en or de")
    parser.add_argument("--min_sec", type=float, default=0.3, help="shorter utterances are skipped")
    parser.add_argument("--max_sec", type=float, default=20.0, help="longer utterances are skipped")
    parser.add_argument(
        "--sample", type=int, default=200, help="utterances that are decoded to hear clipping and silence"
    )
    parser.add_argument(
        "--size", choices=ALL_SIZES, default="auto", help="of model, batch and training; auto: by the hours"
    )
    parser.add_argument("--conf_dir", type=Path, default=Path("conf"), help="folder of the training configurations")
    parser.add_argument("--codec", default="world_vq", help="for the estimate of the time")
    parser.add_argument("--fs", type=int, default=16000, help="sample rate of the codec, Hz")
    parser.add_argument("--stacking", default="1,2", help="frame stacking factors, for the estimate")
    parser.add_argument("--threads", type=int, default=2, help="trainings side by side, one thread each")
    parser.add_argument("--init_from", default="", help="experiment to begin with")
    parser.add_argument("--estimate", choices=("yes", "no"), default="yes", help="measure a step of the training")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.sample < 1:
        raise UserError(f"--sample must be at least 1, got {args.sample}")
    print(prepare(args), end="")  # noqa: T201 (the page is what the command says)


if __name__ == "__main__":
    run(main)
