"""The contract of a semantic tokenizer: what data preparation and inference rely on."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from espnet_ext.testing.refusal import assert_refused
from espnet_ext.testing.sound import corpus, voice
from espnet_ext.tokenizers.semantic import (
    SemanticTokenizer,
    create_semantic,
    deduplicate,
    load_semantic,
    read_semantic_info,
    save_semantic,
    semantic_tokenizers,
)

LENGTHS = (1, 5, 399, 400, 640, 641, 15999, 16000, 16001, 33333)  # samples


class SemanticCase(NamedTuple):
    """A semantic tokenizer on trial.

    Attributes:
        name: registered name.
        conf: its options, with so few units that eight seconds of sound are enough to learn them from.
        tokenizer: made with them.
    """

    name: str
    conf: Mapping[str, object]
    tokenizer: SemanticTokenizer

    @classmethod
    def create(cls, name: str, conf: Mapping[str, object]) -> SemanticCase:
        """The case of a tokenizer that is made here."""
        return cls(name, conf, fresh_tokenizer(name, conf))

    def speech(self, seconds: float = 1.3) -> Tensor:
        """A voice: (samples,) float32."""
        return torch.from_numpy(voice(seconds, 130.0, 8, self.tokenizer.sample_rate_hz))


def fresh_tokenizer(name: str, conf: Mapping[str, object], seed: int = 3, threads: int = 1) -> SemanticTokenizer:
    """A new tokenizer, always from the same eight seconds of sound."""
    wavs = corpus(semantic_tokenizers[name].sample_rate_hz)
    return create_semantic(name, iter(wavs), seed, conf, threads)


def units_have_the_rate_and_the_range_that_the_facts_promise(case: SemanticCase) -> None:
    """(T,) int64 below the number of units, T that of the rate; at least one of a single sample."""
    tokenizer, spec = case.tokenizer, case.tokenizer.spec
    wanted = case.conf.get("num_units", spec.codebook_size)
    found = (spec.num_codebooks, spec.codebook_size, spec.sample_rate_hz)
    assert found == (1, wanted, tokenizer.sample_rate_hz), f"the facts {found} are not those of the tokenizer"
    for samples in LENGTHS:
        units = tokenizer.encode(case.speech(3.0)[:samples])
        assert units.dtype == torch.int64 and units.ndim == 1, f"units must be (T,) int64, got {units.dtype}"
        expected = samples / spec.sample_rate_hz * spec.frame_rate_hz
        # a network sees no frame that is not complete
        least, most = max(math.floor(expected) - 1, 1), max(math.ceil(expected), 1)
        assert least <= len(units) <= most, f"{samples} samples must be {least} to {most} units, got {len(units)}"
        low, high = int(units.min()), int(units.max())
        assert low >= 0 and high < spec.codebook_size, f"units must be below {spec.codebook_size}, got {low} to {high}"
    assert len(deduplicate(tokenizer.encode(case.speech(3.0)).numpy())) > 5, "a voice collapses into a few units"


def units_depend_on_the_utterance_alone(case: SemanticCase) -> None:
    """Not on what was encoded before."""
    wavs = [case.speech(seconds) for seconds in (0.7, 1.9, 0.3)]
    forwards = [case.tokenizer.encode(wav) for wav in wavs]
    backwards = [case.tokenizer.encode(wav) for wav in reversed(wavs)][::-1]
    same = all(torch.equal(one, other) for one, other in zip(forwards, backwards, strict=True))
    assert same, "units must not depend on the utterances before"


def a_loaded_tokenizer_is_the_saved_one(case: SemanticCase) -> None:
    """The file holds all there is to a tokenizer, and equal ones have equal fingerprints."""
    name, tokenizer = case.name, case.tokenizer
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        info = save_semantic(tokenizer, name, place / "a", deduplicate=False, origin={"seed": 3})
        assert read_semantic_info(place / "a") == info, "the description is read otherwise than it was written"
        assert (info.deduplicate, info.spec) == (False, tokenizer.spec), f"the description says {info}"
        loaded = load_semantic(place / "a" / "semantic_info.yaml")
        again = save_semantic(loaded, name, place / "b", deduplicate=True, origin={})
    assert torch.equal(loaded.centroids, tokenizer.centroids), "a loaded tokenizer has other centroids"
    assert torch.equal(loaded.encode(case.speech()), tokenizer.encode(case.speech())), "and encodes otherwise"
    assert again.fingerprint == info.fingerprint, "a loaded tokenizer has another fingerprint"


def the_same_seed_makes_the_same_tokenizer(case: SemanticCase) -> None:
    """And another seed another one, where units are learned; threads change nothing."""
    right = case.tokenizer.centroids
    for threads in (1, 3):
        same = fresh_tokenizer(case.name, case.conf, threads=threads).centroids
        assert torch.equal(same, right), f"the same seed must make the same tokenizer, with {threads} threads"
    if semantic_tokenizers[case.name].learns(case.conf):
        assert not torch.equal(fresh_tokenizer(case.name, case.conf, seed=4).centroids, right), (
            "the seed changes nothing"
        )


def unknown_and_impossible_options_are_refused(case: SemanticCase) -> None:
    """Those of the tokenizer and those of k-means."""
    units = case.tokenizer.spec.codebook_size
    refused: list[tuple[dict[str, object], str]] = [
        ({"units": 5}, f"semantic_conf of {case.name} must be among .*'num_units'.* got 'units'"),
        ({"num_units": 1}, "num_units must be at least 2, got 1"),
        ({"num_units": True}, "num_units must be an integer, got True"),
        ({"sweeps": 0}, "sweeps must be at least 1, got 0"),
    ]
    if semantic_tokenizers[case.name].learns(case.conf):
        refused += [
            ({"num_units": 5000}, "num_units must be at most [0-9]+, the frames to learn from, got 5000"),
            ({"buffer_frames": 1}, f"buffer_frames must be at least num_units, {units}, got 1"),
        ]
    for conf, message in refused:
        assert_refused(partial(fresh_tokenizer, case.name, {**case.conf, **conf}), message)


def what_is_no_waveform_is_refused(case: SemanticCase) -> None:
    """Nothing, two axes, and numbers that are not finite."""
    for bad in (torch.zeros(0), torch.zeros(2, 400), torch.full((400,), math.nan)):
        assert_refused(partial(case.tokenizer.encode, bad), "wav must be")


SEMANTIC_CONTRACT: tuple[Callable[[SemanticCase], None], ...] = (
    units_have_the_rate_and_the_range_that_the_facts_promise,
    units_depend_on_the_utterance_alone,
    a_loaded_tokenizer_is_the_saved_one,
    the_same_seed_makes_the_same_tokenizer,
    unknown_and_impossible_options_are_refused,
    what_is_no_waveform_is_refused,
)


def check_semantic_tokenizer(name: str, conf: Mapping[str, object] | None = None) -> None:
    """Hold a registered semantic tokenizer to its contract.

    Args:
        name: registered name.
        conf: its options; `num_units` must be content with eight seconds of sound. None for the defaults.

    Raises:
        AssertionError: saying what it does not keep.
    """
    case = SemanticCase.create(name, conf or {})
    for clause in SEMANTIC_CONTRACT:
        clause(case)
