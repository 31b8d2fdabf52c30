"""Before a training: what the recogniser of the scores cannot hear of the texts, as its dictionary lacks the words.

python local/check_words.py data/test/text --asr pocketsphinx
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.data.datadir import read_scp
from espnet_ext.scoring.evaluators import recognisers
from espnet_ext.scoring.measures.words import Vocabulary
from espnet_ext.scoring.options import add_evaluator_option, parse_evaluators


def remark(text: Path, asr: str) -> str:
    """One line about a text, of what will be missing in its scores; the empty string if nothing is.

    Args:
        text: Kaldi text file.
        asr: name of the recogniser.

    Returns:
        The line.
    """
    vocabulary = Vocabulary.of(recognisers[asr], read_scp(text, allow_empty=True).values())
    unknown, words = len(vocabulary.unknown), len(vocabulary.unknown) + len(vocabulary.known)
    if not unknown:
        return ""
    some = ", ".join(list(vocabulary.unknown)[:5])
    if not vocabulary.known:
        return f"{text}: {asr} knows none of the {words} words ({some}): there will be no word error rates, see --asr"
    return f"{text}: {asr} does not know {unknown} of {words} words, and will never hear them: {some}"


def main() -> None:
    """Command line; options of the evaluation that it has no use for are left alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="+", help="text files of the test sets")
    add_evaluator_option(parser, "asr")
    args, _ = parser.parse_known_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    texts = [one for text in args.text for one in read_scp(text, allow_empty=True).values()]
    for choice in parse_evaluators(args, texts, ["asr"])["asr"]:
        if choice.unavailable() is None:
            for line in filter(None, (remark(text, choice.name) for text in args.text)):
                logging.warning("%s", line)


if __name__ == "__main__":
    run(main)
