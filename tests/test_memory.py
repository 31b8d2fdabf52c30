"""Where memory does not suffice the batch is halved, and no utterance is lost."""

from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.inference.corpus import is_out_of_memory, speak_shard
from espnet_ext.inference.requests import Job, modes
from espnet_ext.inference.speech import Speech

CPU_ERROR = (
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)


class Forgetful:
    """A model with room for so many utterances; one that says "long" needs all there is and more."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error, self.batches, self.freed = room, error, [], 0
        self.codec, self.spec = self, type("Spec", (), {"sample_rate_hz": 8000})

    most_rows = None

    def load(self):
        return self

    def free_graphs(self):
        self.freed += 1

    def speak_all(self, mode, names, requests, options, warn):
        self.batches.append(len(names))
        if len(names) > self.room or any(request.text == "long" for request in requests):
            raise self.error
        return [Speech(np.zeros((2, 3)), np.zeros(8, np.float32), True, -1.0) for _ in names]


def spoken(model: Forgetful, folder: Path, texts: list[str]):
    """What becomes of texts."""
    jobs = {f"u{number}": Job(folder / f"u{number}.wav", text=text) for number, text in enumerate(texts)}
    return speak_shard(model, modes["text"](), DecodeOptions("parallel"), jobs)[0]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(CPU_ERROR)]
)
def test_the_batch_is_halved_until_it_fits(tmp_path, error, caplog):
    model = Forgetful(2, error)
    results = spoken(model, tmp_path, ["a"] * 7)
    assert list(results) == [f"u{number}" for number in range(7)]
    assert not any(isinstance(result, str) for result in results.values())
    assert model.batches == [7, 3, 1, 2, 4, 2, 2] and model.freed == 3
    assert sum("going on with half as many" in record.message for record in caplog.records) == 3
    assert len(list(tmp_path.glob("*.wav"))) == 7


def test_what_does_not_fit_alone_is_named(tmp_path):
    results = spoken(Forgetful(9, MemoryError("no room")), tmp_path, ["a", "long", "a"])
    assert results["u1"] == "cannot be spoken: out of memory, alone: no room"
    assert not isinstance(results["u0"], str) and not isinstance(results["u2"], str)


def test_other_errors_are_not_taken_for_it(tmp_path):
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        spoken(Forgetful(1, RuntimeError("shape mismatch")), tmp_path, ["a", "b"])


def test_where_rows_join_half_as_many_are_spoken_at_once(tmp_path):
    model = Forgetful(2, MemoryError())
    model.most_rows = 4
    results = spoken(model, tmp_path, ["a"] * 9)
    assert not any(isinstance(result, str) for result in results.values())
    assert model.batches == [9, 2, 2, 2, 2, 1] and model.freed == 1
