"""The token list of a corpus' transcripts, and a report of what is rare or removed."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.data.datadir import read_scp
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.tokenizers.text.cleaners import CLEANERS, compose, find_cleaner, removed
from espnet_ext.tokenizers.text.g2p import g2ps
from espnet_ext.tokenizers.text.tokens import TOKEN_TYPES, TextSplitter, describe_counts, make_token_list


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="Kaldi text files")
    parser.add_argument("--token_type", default="char", choices=TOKEN_TYPES)
    parser.add_argument("--bpemodel", type=Path, help="SentencePiece model; trained here when it is missing")
    parser.add_argument("--train_bpe", action="store_true", help="Train the SentencePiece model even if it is there")
    parser.add_argument("--vocab_size", type=int, default=200, help="Pieces of a SentencePiece model trained here")
    parser.add_argument("--cleaner", default="lower", choices=sorted(CLEANERS))
    parser.add_argument("--g2p", default="none", choices=list(g2ps), help="What makes phones for token_type phn")
    parser.add_argument("--min_count", type=int, default=1, help="Tokens seen fewer times become <unk>")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def train_bpe(texts: Sequence[str], model: Path, vocab_size: int, cleaner: str) -> None:
    """Train a SentencePiece BPE model.

    Args:
        texts: transcripts.
        model: file to write.
        vocab_size: number of pieces.
        cleaner: name of the cleaner.

    Raises:
        UserError: if no model of this size can be made of the texts.
    """
    import sentencepiece

    clean = find_cleaner(cleaner)
    with atomic_path(model) as temporary, temporary.open("wb") as stream:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter([clean(text) for text in texts]),
                model_writer=stream,
                model_type="bpe",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                minloglevel=1,
            )
        except RuntimeError as error:
            reason = " ".join(str(error).rpartition("] ")[2].split()) or " ".join(str(error).split())
            raise UserError(f"vocab_size must fit the text, got {vocab_size} ({reason})") from None


def main(cmd: Sequence[str] | None = None) -> None:
    """Write the token list.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level="INFO", format="%(levelname)s: %(message)s")
    composed = [compose(text) for path in args.text for text in read_scp(path).values()]
    texts, invisible = [text for text, _ in composed], sum(count for _, count in composed)
    if args.token_type == "bpe" and args.bpemodel is not None and (args.train_bpe or not args.bpemodel.is_file()):
        train_bpe(texts, args.bpemodel, args.vocab_size, args.cleaner)
    splitter = TextSplitter(args.token_type, args.bpemodel, args.cleaner, args.g2p)
    tokens, rare = make_token_list(texts, splitter, args.min_count)
    gone = sum((removed(text, args.cleaner) for text in texts), Counter())
    if invisible:
        logging.warning("invisible characters (zero-width, soft hyphens, …) that are left out: %d", invisible)
    if gone:
        logging.warning("characters that cleaner %s removed: %s", args.cleaner, describe_counts(gone))
    if rare:
        logging.warning("tokens seen fewer than %d times, now <unk>: %s", args.min_count, describe_counts(rare))
    with atomic_path(args.out) as temporary:
        temporary.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    logging.info("%d tokens in %s", len(tokens), args.out)


if __name__ == "__main__":
    run(main)
