"""Inputs of a core LM that reads text."""

from __future__ import annotations

import logging
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

from espnet_ext.data.datadir import read_scp
from espnet_ext.data.inputs.base import Inputs, register_inputs
from espnet_ext.data.preprocess import CodecLMPreprocessor
from espnet_ext.errors import UserError
from espnet_ext.options import check_number
from espnet_ext.tokenizers.text.bpe import check_bpe, copy_bpe
from espnet_ext.tokenizers.text.tokens import TextSplitter, TextTokenizer, read_token_list


@register_inputs("text")
class TextInputs(Inputs):
    """Text, and codes that a codec made of speech, or semantic units in their place."""

    required = ("text", "codes")
    optional = ("prompt",)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer of `token_list`, a file or the tokens, and the other options of the text."""
        args = self.args
        if args.token_list is None:
            raise UserError("token_list must be a file of text tokens, got none")
        tokens = read_token_list(Path(args.token_list)) if isinstance(args.token_list, str) else args.token_list
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise UserError("token_list must be a list of texts")
        bpemodel = Path(args.bpemodel) if args.bpemodel else None
        splitter = TextSplitter(args.token_type, bpemodel, args.cleaner, self.g2p)
        return TextTokenizer(splitter, tokens, getattr(args, "numbers", "auto"))  # earlier versions had no numbers

    @property
    def g2p(self) -> str:
        """What makes phones of the text; the config.yaml of the first version does not tell."""
        return getattr(self.args, "g2p", "none")

    @property
    def prompt_frames(self) -> int:
        """Longest speaker prompt in codec frames."""
        check_number("prompt_sec", self.args.prompt_sec, least=0)
        return round(self.args.prompt_sec * self.spec.frame_rate_hz)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self.tokenizer.tokens)

    @property
    def files(self) -> dict[str, str]:
        """Files of text, codes and prompts; of units where those are the codes."""
        if "tokenizer" in self.codec:
            return {"text": "text", "codes": "semantic.scp"}
        return {"text": "text", "codes": "codes.scp", "prompt": "prompt.scp"}

    def preprocessor(self, train: bool) -> CodecLMPreprocessor:
        """What turns data as read from disk into arrays."""
        deduplicates = self.codec.get("deduplicate", False)
        return CodecLMPreprocessor(self.tokenizer, self.spec, self.prompt_frames, train, deduplicates)

    @property
    def facts(self) -> dict[str, Any]:
        """Codec and text."""
        text = {"token_type": self.args.token_type, "cleaner": self.args.cleaner, "g2p": self.g2p}
        return {**text, **super().facts, "token_list": self.tokenizer.tokens}

    def shapes(self, frames: int, tokens: int) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Text, codes and the longest prompt."""
        codes = super().shapes(frames, tokens) | {"prompt": super().shapes(self.prompt_frames, 0)["codes"]}
        return {"text": (self.vocabulary, (tokens,)), **codes}

    def check(self) -> None:
        """Refuse options of other inputs, and another SentencePiece model than that of the experiment."""
        for name, value in (("semantic_info", None), ("crop_sec", 0.0), ("join_prompt", 0.0)):
            given = getattr(self.args, name)
            if given != value:
                raise UserError(f"{name} must be left out with corelm {self.args.corelm}, got {given}")
        check_number("prompt_sec", self.args.prompt_sec, least=0)
        check_bpe(self.args)

    def report(self) -> None:
        """Log, for every text file, how much of it the model cannot read: tokens, invisible characters.

        Raises:
            UserError: naming file and utterance, if a text is empty.
        """
        data = (*self.args.train_data_path_and_name_and_type, *self.args.valid_data_path_and_name_and_type)
        for path in [path for path, name, _ in data if name == "text"]:
            unknown: Counter[str] = Counter()
            invisible = 0
            for utterance, text in read_scp(path, allow_empty=True).items():
                try:
                    encoding = self.tokenizer.read(text)
                except UserError as error:
                    raise UserError(f"{path}, {utterance}: {error}") from None
                unknown.update(encoding.unknown)
                invisible += encoding.invisible
            if unknown:
                said = self.tokenizer.describe(unknown.elements())
                logging.warning("tokens of %s outside of the token list: %s", path, said)
            if invisible:
                logging.warning("invisible characters of %s that are left out: %d", path, invisible)

    def keep(self) -> None:
        """Copy tokenizers and SentencePiece model."""
        super().keep()
        copy_bpe(self.args)
