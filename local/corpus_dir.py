"""A folder of recordings → data/{train,dev,test}, after checking everything, and one page about it, data/report.md.

python local/corpus_dir.py --corpus recordings --datadir data --conf_dir ../../../conf
"""

from __future__ import annotations

import argparse
import logging
from contextlib import closing
from pathlib import Path

from training_time import measure_training, time_lines

from espnet_ext.bin import run
from espnet_ext.data.corpora import Source, find_layout, layouts
from espnet_ext.data.corpora import page as page_of
from espnet_ext.data.corpora.sizes import SIZES, choose_size, choose_text
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

REPORT, CHOSEN = "report.md", "chosen_options"
ALL_SIZES = ("auto", *SIZES, "tiny")


def configurations(size: str, conf_dir: Path) -> tuple[Path, Path]:
    """Training configuration of a size, and that of the model that it begins with."""
    name = "train_tiny" if size == "tiny" else f"train_own_{size}"
    return conf_dir / f"{name}.yaml", conf_dir / f"{name}_base.yaml"


def prepare(args: argparse.Namespace) -> str:
    """Check a corpus, write its data directories and what was chosen for it.

    Args:
        args: the command's options.

    Returns:
        The page.

    Raises:
        UserError: if nothing of it is usable.
    """
    rules = Rules(args.speaker_from, args.language, args.min_sec, args.max_sec)
    folders = tuple(Path(one) for one in args.audio_dir.split())
    source = Source(args.corpus, args.encoding, args.delimiter, folders, args.datadir.absolute() / "unpacked")
    kind = find_layout(args.layout, args.corpus)
    layout = kind(source)
    with closing(open_store()) as store:
        gather(store, layout, rules)
        measure(store, rules)
        skip_duplicates(store)
        sounds, bad = sample_sounds(store, args.sample)
        skip_unreadable(store, bad)
        text = choose_text(store)
        split(store)
        write_sets(store, args.datadir)
        counts, strange = page_of.characters(store)
        number, seconds, letters = store.execute(
            "SELECT count(*), sum(seconds), sum(length(text)) FROM utterance WHERE reason = '' AND part = 'train'"
        ).fetchone()
        size, why = choose_size(seconds / 3600)
        if args.size != "auto":
            size, why = args.size, f"--size {args.size} says so"
        train, base = configurations(size, args.conf_dir)
        name = next(one for one in layouts if layouts[one] is kind)
        lines = [
            f"# {args.corpus}",
            "",
            f"Layout {name}{': ' * bool(layout.told())}{layout.told()}.",
            *page_of.overview(store),
        ]
        lines += [
            "",
            "## Audio",
            "",
            *page_of.sound_lines(
                sounds, bad, store.execute("SELECT count(*) FROM utterance WHERE reason = ''").fetchone()[0]
            ),
        ]
        lines += ["", "## Text", "", *page_of.text_lines(counts, strange, text)]
        lines += ["", "## Skipped", "", *page_of.skipped_lines(store)]
        lines += ["", "## Training", "", f"Size {size}: {why}; `{train.name}` behind `{base.name}`."]
        if args.estimate == "yes":
            shape = args.codec, seconds / number, letters / number
            trainings = [measure_training(base, "base", 1, *shape)]
            trainings += [
                measure_training(train, f"s{factor}", int(factor), *shape) for factor in args.stacking.split(",")
            ]
            lines += ["", *time_lines(trainings, args.codec, args.threads, seconds)]
        changes = list(page_of.advice(store, sounds, counts, text, args.fs))
        lines += [
            "",
            "## What to change",
            "",
            *([f"- {one}" for one in changes] or ["Nothing that these checks can see."]),
        ]
        for table, rows in page_of.write_tables(store, counts):
            with atomic_path(args.datadir / table) as temporary, temporary.open("w", encoding="utf-8") as stream:
                stream.writelines(rows)
    page = "\n".join(lines) + "\n"
    chosen = ["--train_config", f"conf/{train.name}", "--base_config", f"conf/{base.name}"]
    chosen += ["--token_type", text.token_type, "--g2p", text.g2p]
    for path, content in ((REPORT, page), (CHOSEN, "\n".join(chosen) + "\n")):
        with atomic_path(args.datadir / path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return page


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
