"""A tiny GPST that speaks: a codec that is heard as steps, tokenizers that hear nothing, random recordings."""

from __future__ import annotations

from argparse import Namespace
from functools import cache

import numpy as np
import torch
from conftest import SPEC
from test_gpst import UNITS, tiny_gpst

from espnet_ext.data.streams import Streams
from espnet_ext.decoding import Generation
from espnet_ext.decoding.options import GPSTDecodeOptions
from espnet_ext.inference.gpst import GPSTSpeech
from espnet_ext.inference.listener import Clock
from espnet_ext.inference.requests import Request
from espnet_ext.tokenizers.codec.base import Codec
from espnet_ext.tokenizers.text.tokens import END, UNKNOWN, TextSplitter, TextTokenizer

SILENCE = Streams(np.array([6] * 50), np.full((25, 3), 7))
NAMES = ["a", "b", "c"]
INPUTS = Namespace(semantic={"deduplicate": True})
OPTIONS = {"prompt_sec": 0.6, "silence_sec": 0.1}


class Steps(Codec):
    """A codec whose frames are 640 samples of their first code; it hears nothing but zeros."""

    spec = SPEC

    @classmethod
    def create(cls, waveforms, seed):
        return cls()

    @classmethod
    def load(cls, checkpoint):
        return cls()

    def save(self, checkpoint):
        raise AssertionError("not needed")

    def encode_utterance(self, wav):
        return torch.zeros(-(-len(wav) // self.hop_samples), 3, dtype=torch.int64)

    def decode_utterance(self, codes):
        return (codes[:, 0] / 8).float().repeat_interleave(self.hop_samples)

    def dequantise(self, codes):
        return codes.float()


class Zeros:
    """A semantic tokenizer that hears nothing but unit 0."""

    sample_rate_hz = 16000

    def encode(self, wav):
        return torch.zeros(round(len(wav) / 320), dtype=torch.int64)


class Letters:
    """A text-to-semantic model: a letter is a unit; "!" is a text without an end, "?" is unknown."""

    tokenizer, longest = TextTokenizer(TextSplitter(), [UNKNOWN, *"abc", END]), None

    def codes_and_unknown(self, names, texts, prompts, options):
        rows = [torch.tensor([ord(letter) % 7 for letter in text])[:, None] for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        codes = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        ends = torch.tensor([not text.endswith("!") for text in texts])
        generation = Generation(codes, lengths, ends, torch.zeros(len(rows)), lengths, lengths)
        return generation, [("?",) * text.count("?") for text in texts]


def clock(stacking=1, deduplicates=True, spec=SPEC):
    return Clock(spec, UNITS, stacking, deduplicates, lambda: SILENCE)


def streams(frames, seed=0, spec=SPEC):
    """Both streams of so many frames; units change every third one."""
    rng = np.random.default_rng(seed)
    units = rng.integers(UNITS.codebook_size, size=-(-round(frames / spec.frame_rate_hz * 50) // 3)).repeat(3)
    return Streams(units[: round(frames / spec.frame_rate_hz * 50)], rng.integers(8, size=(frames, 3)))


def gpst_speech(model, texts=True):
    speech = GPSTSpeech(model, Steps(), INPUTS, Zeros, Letters() if texts else None)
    speech.silence = SILENCE
    return speech


@cache
def shared_speech(stacking=1):
    return gpst_speech(tiny_gpst(stacking=stacking, languages=("en", "zh")))


def with_positions(count, stacking=1):
    """A model whose context has so many positions."""
    model = tiny_gpst("learned", stacking)
    model.primary.position = torch.nn.Embedding(count, 32).double()
    return gpst_speech(model)


def requests():
    """Three utterances of different lengths; one prompt is as short as allowed, one longer than the longest."""
    given = [(23, 13, "abc"), (17, 40, "abcdef"), (31, 15, "fade")]
    return [
        Request(streams(frames, row), streams(prompt, 9 + row), text, ("en", "", "zh")[row])
        for row, (frames, prompt, text) in enumerate(given)
    ]


def options(**more):
    chosen = {"decoding": "parallel", "maxlenratio": 1.5, "min_frames": 2, "max_sec": 0.3, **more}
    return GPSTDecodeOptions(**chosen)
