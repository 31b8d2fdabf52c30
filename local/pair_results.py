"""One page about a list of pairs: word errors, similarity to the prompt and opinion scores, and how they came about.

python local/pair_results.py --scores exp/scoring/pairs_x/scores.json --data_dir data/pairs_x --out exp/pairs_x.md
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from pairs_dir import DIGEST_NAME

from espnet_ext.bin import run
from espnet_ext.data.datadir import read_scp, read_skipped, skipped_summary
from espnet_ext.errors import UserError
from espnet_ext.scoring.scores import Scores, SystemScores, read_scores
from espnet_ext.scoring.tables.markdown import ABSENT, plain, table
from espnet_ext.scoring.tables.measure import cells, measure, shown, value_of
from espnet_ext.storage.atomic import atomic_path

MEASURED = ("wer", "speaker_prompt")
NO_OPINION = ("mcd", "log_f0_rmse", "dnsmos_sig", "dnsmos_bak")  # of "measures", but no overall opinion score
EVALUATORS = ("recogniser", "speaker encoder", "opinion scores")  # of the environment


def _seeds(scores: SystemScores) -> str:
    seeds = [] if scores.decoding is None else [str(seed) for seed in scores.decoding.seeds]
    return " ".join(seeds) or ABSENT


def measures_table(result: Scores) -> str:
    """One row for each system: seeds, utterances, and every measure with its interval."""
    keys = [*MEASURED, *dict.fromkeys(key for one in result.systems.values() for key in one.measures)]
    keys = [key for key in keys if key not in NO_OPINION]
    header = ["system", "seeds", "utt", *(label for key in keys for label in (measure(key).label, "95 %"))]
    rows = [
        [name, _seeds(scores), str(scores.utterances)]
        + [text for key in keys for text in cells(scores, key, result.unavailable)]
        for name, scores in result.systems.items()
    ]
    return table(header, rows)


def remarks(result: Scores, listed: Mapping[str, str], skipped: Mapping[str, str]) -> Iterable[str]:
    """What must be known to hold the figures against others.

    Args:
        result: the scores.
        listed: name, sha256 and number of pairs of the list.
        skipped: target → why it was left out.

    Yields:
        Lines.
    """
    said = result.reference.utterances
    yield f"list: `{listed['name']}`, sha256 {listed['sha256']} of its prompts, targets and texts"
    yield f"pairs: {said} of {listed['pairs']} were said; left out: {skipped_summary(skipped)}"
    for name in EVALUATORS:
        yield f"{name}: {result.environment.get(name, 'none')}"
    yield from (f"{measure(key).label}: {why}" for key, why in result.unavailable.items())
    resamples, seed = (result.settings.get(name) for name in ("resamples", "seed"))
    yield f"intervals: 95 %, {resamples} bootstrap resamples (seed {seed}) of utterances in their speakers and of seeds"
    yield "WER: errors over all words of all pairs; an utterance without audio counts as deleted"
    yield "speaker prompt: cosine similarity to the recording of the prompt; `original` is the target's own recording"
    short = [name for name, one in result.systems.items() if one.missing or one.unheard]
    yield f"utterances without audio or that an evaluator could not judge: {', '.join(short) or 'none'}"
    versions = ("date", "python version", "espnet version", "pytorch version", "Git hash")
    yield ", ".join(f"{name} {result.environment[name]}" for name in versions if name in result.environment)


def write_page(scores: Path, folders: list[Path], out: Path) -> None:
    """Write the page and log its figures.

    Args:
        scores: scores.json.
        folders: the data directory of the pairs, then those that stages made of it, each with what it skipped.
        out: page.

    Raises:
        UserError: if the data directory was made of no list.
    """
    result = read_scores(scores)
    listed = read_scp(folders[0] / DIGEST_NAME)
    if listed.keys() < {"name", "sha256", "pairs"}:
        raise UserError(f"{folders[0] / DIGEST_NAME} must have name, sha256 and pairs, got {list(listed)}")
    skipped: dict[str, str] = {}
    for folder in folders:
        skipped = read_skipped(folder / "skipped") | skipped
    figures = measures_table(result)
    notes = "".join(f"- {plain(line)}\n" for line in remarks(result, listed, skipped))
    with atomic_path(out) as temporary:
        temporary.write_text(f"# {plain(result.title)}\n\n{figures}\n{notes}", encoding="utf-8")
    for name, one in result.systems.items():
        wer, own = value_of(one, "wer"), value_of(one, "speaker_prompt")
        logging.info(
            "%s: WER %% %s, similarity to the prompt %s", name, shown("wer", wer), shown("speaker_prompt", own)
        )
    logging.info("%s", out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, required=True, help="scores.json of the pairs")
    parser.add_argument(
        "--data_dir", type=Path, nargs="+", required=True, help="data directory of the pairs, and those made of it"
    )
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: write_page(args.scores, args.data_dir, args.out))


if __name__ == "__main__":
    main()
