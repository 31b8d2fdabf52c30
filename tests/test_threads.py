"""What threads may share, what a process that was forked or spawned loads, and what cannot be copied into either."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NAMES, SAMPLING, SPEC, TEXT_VOCAB, ragged_batch
from test_fast import KERNELS, STRATEGIES, float32_model, needs_compiler, skip_where_missing

from espnet_ext.decoding import Step, build_strategy, generate, plain_step
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.sampling import Sampler, row_generators
from espnet_ext.errors import UserError
from espnet_ext.fast import PRECISIONS, FastOptions, accelerate, native
from espnet_ext.fast.graphs import Graphs
from espnet_ext.inference.model_ref import ModelRef
from espnet_ext.model.core_lm import TextCoreLM

THREADS, REQUESTS = 4, 4


@pytest.fixture
def _in_turns() -> Iterator[None]:
    """The interpreter goes from thread to thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def assert_threads_do_not_meet(
    model: Any, strategies: Any, step: Step = plain_step, requests: int = REQUESTS, ragged: bool = True
) -> None:
    """Requests at the same time, of different sizes unless told otherwise, have the codes that they have alone."""

    def codes(request: tuple[int, tuple[str, dict[str, Any]]]) -> torch.Tensor:
        seed, (name, conf) = request
        rows = seed % len(NAMES) + 1 if ragged else len(NAMES)
        batch = ragged_batch().conditions(model)
        conditions = type(batch)(*(part if part is None else part[:rows] for part in batch))
        kind = list(SAMPLING)[seed % len(SAMPLING) if ragged else 1]
        sampler = Sampler(SAMPLING[kind], row_generators(seed, NAMES[:rows]))
        frames = 4 + seed if ragged else 20
        return generate(model, conditions, build_strategy(name, **conf), sampler, frames, step=step).codes

    asked = [(seed, strategy) for seed in range(requests) for strategy in strategies]
    right = [codes(request) for request in asked]
    with ThreadPoolExecutor(THREADS) as threads:
        ours = list(threads.map(codes, asked))
    wrong = [request for request, one, other in zip(asked, ours, right, strict=True) if not torch.equal(one, other)]
    assert not wrong, f"{len(wrong)} of {len(asked)} requests have other codes than alone: {wrong[:3]}"


@pytest.mark.usefixtures("_in_turns")
@pytest.mark.parametrize("is_native", KERNELS)
@pytest.mark.parametrize("precision", [None, *PRECISIONS])
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_threads_that_share_a_model_get_the_codes_they_get_alone(primary, precision, is_native) -> None:
    model = float32_model(primary, 2, conditioning_dropout=0.1)
    if precision is None and is_native:
        pytest.skip("the kernel packs weights")
    if precision is not None:
        skip_where_missing(precision, is_native)
        accelerate(model, FastOptions(precision, native=is_native), rows=8)
    assert_threads_do_not_meet(model, STRATEGIES)


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_long_steps_of_the_native_kernel_run_at_the_same_time(primary, precision) -> None:
    """Threads got each other's codes: they wrote to the same scratch memory."""
    torch.manual_seed(0)
    conf = {"width": 256, "layers": 3, "heads": 4, "dropout": 0.0}
    model = TextCoreLM(SPEC, TEXT_VOCAB, primary=primary, primary_conf=conf, local="ar").eval()
    accelerate(model, FastOptions(precision, native=True))
    assert_threads_do_not_meet(model, STRATEGIES[:2], requests=THREADS, ragged=False)


@pytest.mark.usefixtures("_in_turns")
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_threads_that_share_static_steps_get_the_codes_they_get_alone(primary) -> None:
    static, model = Graphs(capture=False), float32_model(primary)
    for strategy in STRATEGIES[:4]:
        assert_threads_do_not_meet(model, [strategy], static, requests=THREADS, ragged=False)
    assert static.steps and not static.failed


def test_the_static_steps_of_a_thread_that_has_ended_are_let_go_of() -> None:
    model, static = float32_model("prefix"), Graphs(capture=False)

    def speak(name: str) -> None:
        sampler = Sampler(SAMPLING["greedy"])
        generate(model, ragged_batch().conditions(model), build_strategy(name), sampler, 3, step=static)

    other = threading.Thread(target=speak, args=("parallel",))
    other.start()
    other.join()
    assert {key[-1] for key in static.steps} == {other}
    speak("parallel")
    assert {key[-1] for key in static.steps} == {threading.current_thread()}


FORK = """
import os, sys, pickle
import torch
from conftest import SAMPLING, ragged_batch
from test_fast import float32_model
from espnet_ext.decoding import build_strategy, generate
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.fast import FastOptions, accelerate
from espnet_ext.jobs.workers import threads
torch.set_num_threads(4)
models = [float32_model("prefix"), float32_model("cross_attention")]
if sys.argv[1] != "None":
    accelerate(models[0], FastOptions("int8", native=sys.argv[1] == "True"), rows=8)
def codes():
    torch.exp(torch.ones(10**6))  # large enough for all threads
    strategy, sampler = build_strategy("local_ar"), Sampler(SAMPLING["greedy"])
    return [generate(model, ragged_batch().conditions(model), strategy, sampler, 20).codes for model in models]
before = codes()
child = os.fork()
if child == 0:
    assert all(map(torch.equal, before, codes()))
    with threads(1):
        codes()
    try:
        with threads(2):
            codes()
    except UserError as error:
        print(error, flush=True)
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert all(map(torch.equal, before, codes()))
"""


@pytest.mark.parametrize("is_native", [None, *KERNELS])
def test_a_process_that_was_forked_after_several_threads_says_the_same_and_does_not_wait(is_native) -> None:
    """It waited without end for the threads of the process that it was forked from."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "4"}
    command = [sys.executable, "-c", FORK, str(is_native)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    refused = "num_threads must be 1 in a forked process (a spawned one may have more), got 2"
    assert said.splitlines() == [refused, "7"]


@needs_compiler
def test_threads_that_need_the_kernel_at_the_same_time_compile_it_side_by_side(tmp_path, monkeypatch) -> None:
    native.library()
    kernel = next(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").glob("espnet_ext/native-*.so"))
    slow = tmp_path / "compiler"
    slow.write_text(f'#!/bin/bash\nout="${{@: -1}}"\necho half > "$out"\nsleep 0.2\ncp {kernel} "$out"\n')
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(slow))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadPoolExecutor(THREADS) as threads:
        found = [threads.submit(native.library.__wrapped__) for _ in range(THREADS)]
        assert all(one.result().sizes(0) for one in found)
    assert len(list((tmp_path / "cache").rglob("*"))) == 2, "the folder and the kernel"


# --- copies and processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [FastOptions("float32"), FastOptions("auto"), FastOptions(compile=True)])
@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_an_accelerated_model_says_that_it_cannot_be_copied(copied, options) -> None:
    model = float32_model("prefix")
    copied(model)
    accelerate(model, options)
    with pytest.raises(UserError, match="model must not be copied or pickled once it is accelerated: load it where"):
        copied(model)


@needs_compiler
def test_a_model_with_the_native_kernel_says_that_it_cannot_be_copied_inside_of_something_else() -> None:
    model = float32_model("cross_attention")
    accelerate(model, FastOptions("int8", native=True))
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(UserError, match="model must not be copied or pickled once it is accelerated"):
            copied({"speaker": [model]})


def say_in_process(model: ModelRef, options: DecodeOptions) -> np.ndarray:
    """Codes of a sentence, from a model that this process loads."""
    torch.set_num_threads(1)
    return model.load()("abcd dcba", options=options).codes


@pytest.mark.espnet
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_forked_and_a_spawned_process_load_the_model_and_say_the_same(experiment: Path, method: str) -> None:
    options = DecodeOptions("local_ar", maxlenratio=2.0)
    model = ModelRef(experiment, precision="float32", native=native.compiler() is not None)
    right = say_in_process(model, options)
    other = ModelRef(experiment, precision="float32", native=model.native, batch_size=2)  # the child's own to load
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as processes:
        for one in (model, other):
            assert np.array_equal(processes.submit(say_in_process, one, options).result(timeout=120), right)


@pytest.mark.espnet
@pytest.mark.usefixtures("_in_turns")
@pytest.mark.parametrize("is_native", KERNELS)
def test_threads_that_share_a_speaker_hear_what_they_hear_alone(experiment: Path, is_native: bool) -> None:
    from espnet_ext.inference import Speaker

    speaker = Speaker.from_experiment(experiment)
    options = DecodeOptions("local_speculative", maxlenratio=2.0, retries=0)  # a stream cannot be taken back
    speaker.accelerate(FastOptions("float32", native=is_native))
    texts = ["abcd"[: 1 + number % 4] * (1 + number // 4) for number in range(2 * REQUESTS)]

    def whole(text: str) -> Any:
        return speaker(text, options=options, name=text)

    def in_pieces(text: str) -> np.ndarray:
        return np.concatenate([piece.samples for piece in speaker.stream(text, options=options, name=text)])

    right = [whole(text) for text in texts]
    with ThreadPoolExecutor(THREADS) as threads:
        pieces = [threads.submit(in_pieces, text) for text in texts]
        for one, other, piece in zip(threads.map(whole, texts), right, pieces, strict=True):
            assert np.array_equal(one.codes, other.codes) and np.array_equal(one.waveform, other.waveform)
            assert one.timing.frames == other.timing.frames
            assert np.array_equal(piece.result(), other.waveform)
