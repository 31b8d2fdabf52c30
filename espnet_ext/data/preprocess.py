"""One utterance as read from disk → the arrays the model is trained on; and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.semantic.units import deduplicate
from espnet_ext.tokenizers.text.tokens import TextTokenizer

Array = NDArray[np.int64]
# an utterance's id, and its data by name as they lie on disk, to arrays by name
Preprocess = Callable[[str, Mapping[str, str | NDArray[np.integer]]], dict[str, Array]]


def frames_of(flat: NDArray[np.integer], spec: CodecSpec, name: str) -> Array:
    """Codes as they lie on disk, flattened → (T, N) int64.

    Args:
        flat: (T * N,) integers.
        spec: the codec's facts.
        name: what to call the codes in an error.

    Returns:
        The codes.

    Raises:
        UserError: if the size is not a multiple of N, or an id is outside the codebook.
    """
    if flat.size % spec.num_codebooks:
        raise UserError(f"{name} must hold a multiple of num_codebooks = {spec.num_codebooks} codes, got {flat.size}")
    codes = flat.astype(np.int64).reshape(-1, spec.num_codebooks)
    try:
        spec.check(torch.from_numpy(codes))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    return codes


class CodecLMPreprocessor:
    """Reads the text, shapes the codes, crops the speaker prompt.

    Args:
        tokenizer: of the text.
        spec: the codec's facts.
        prompt_frames: longest prompt; a longer one is cropped, at random in training and at its end otherwise.
        train: whether crops are random.
        deduplicates: whether the model sees codes without repetitions, semantic units for example.
    """

    def __init__(
        self, tokenizer: TextTokenizer, spec: CodecSpec, prompt_frames: int, train: bool, deduplicates: bool = False
    ) -> None:
        self.tokenizer, self.spec, self.prompt_frames, self.train = tokenizer, spec, prompt_frames, train
        self.deduplicates = deduplicates

    def __call__(self, utt_id: str, data: Mapping[str, str | NDArray[np.integer]]) -> dict[str, Array]:
        """The arrays of one utterance: text (U,), codes (T, N), prompt (T', N), as far as they are given.

        Args:
            utt_id: names the utterance in errors.
            data: "text" a str, "codes" and "prompt" flattened codes.

        Returns:
            int64 arrays; a prompt of 0 frames where none is given.

        Raises:
            UserError: if the text is empty or codes have the wrong size.
        """
        arrays = {}
        for name, value in data.items():
            if isinstance(value, str):
                try:
                    arrays[name] = np.asarray(self.tokenizer.encode(value), dtype=np.int64)
                except ValueError as error:
                    raise UserError(f"{utt_id}: {error}") from None
            else:
                arrays[name] = frames_of(value, self.spec, f"{name} of {utt_id}")
        if self.deduplicates and "codes" in arrays:
            arrays["codes"] = deduplicate(arrays["codes"][:, 0])[:, None]
        prompt = arrays.get("prompt", np.zeros((0, self.spec.num_codebooks), dtype=np.int64))
        arrays["prompt"] = self._crop(prompt)
        return arrays

    def _crop(self, prompt: Array) -> Array:
        surplus = max(len(prompt) - self.prompt_frames, 0)
        start = np.random.randint(surplus + 1) if self.train else 0
        return prompt[start : start + self.prompt_frames]


def collate(batch: Collection[tuple[str, dict[str, Array]]]) -> tuple[list[str], dict[str, Tensor]]:
    """A padded batch: ids, and per name the arrays (B, longest, …) with `{name}_lengths` (B,), single numbers as (B,).

    Args:
        batch: ids and arrays of the utterances.

    Returns:
        Ids and int64 tensors, padded with 0 on the right.
    """
    utt_ids = [utt_id for utt_id, _ in batch]
    tensors: dict[str, Tensor] = {}
    for name in next(iter(batch))[1]:
        rows = [torch.from_numpy(arrays[name]) for _, arrays in batch]
        if rows[0].dim() == 0:
            tensors[name] = torch.stack(rows)
            continue
        tensors[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        tensors[f"{name}_lengths"] = torch.tensor([len(row) for row in rows])
    return utt_ids, tensors
