"""Serves the decoding of one implementation to the benchmark: a JSON line in, a JSON line out.

A script says how its model is built and run, and calls `serve`. A peer's script runs in the peer's own interpreter, so
packages never meet, and finds this file by its folder: it imports nothing but torch.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

# (frames of context, frames to decode) → codes (B, frames, N); a generator yields after every step and returns them
Decode = Callable[[int, int], Any]


def serve(build: Callable[[dict[str, Any]], tuple[Decode, dict[str, Any]]]) -> None:
    """Answer requests until there are no more.

    The first argument of the process holds the sizes as JSON. Requests: `{"context": c, "frames": f}` decodes, and is
    answered with the seconds of process time and of wall time that the frames took, without those of the context;
    with `"save": path` codes and weights are written as well, with `"details": true` the answer has those too.

    Args:
        build: sizes → the decoding function, and facts of the model: "parameters", "version", and maybe "weights" and
            "details", a function of the request.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints is no answer
    sizes = json.loads(sys.argv[1])
    torch.set_num_threads(sizes["threads"])
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    decode, facts = build(sizes)
    weights = facts.pop("weights", {})
    print(json.dumps({name: value for name, value in facts.items() if name != "details"}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        details = facts["details"](request) if "details" in request else {}
        answer = {**_measure(decode, request, sizes), **details}
        if "save" in request:
            codes = _drain(decode(request["context"], request["frames"]))
            torch.save({"codes": codes, "weights": weights, "sizes": sizes}, request["save"])
        print(json.dumps(answer), file=answers, flush=True)


def context_codes(batch: int, frames: int, books: int, size: int) -> torch.Tensor:
    """Codes that stand in front, the same for every peer: (B, frames, N)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(size, (batch, frames, books), generator=generator)


def enliven(model: torch.nn.Module, gain: float | None) -> None:
    """Random weights so large that greedy codes do not get stuck, for comparing codes; nothing without a gain."""
    if gain is None:
        return
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=gain * parameter[0].numel() ** -0.5)


def _measure(decode: Decode, request: dict[str, Any], sizes: dict[str, Any]) -> dict[str, float]:
    """Seconds of so many frames behind the first step.

    Those of a generator from its first step on; of a function those of a run with one frame more, less those of one.
    """
    first = sizes.get("first_frames", 1)
    if inspect.isgeneratorfunction(decode):
        run = decode(request["context"], first + request["frames"])
        next(run)
        short, long = (0.0, 0.0), _time(lambda: _drain(run), sizes)
    else:
        short, long = (
            _time(partial(decode, request["context"], frames), sizes) for frames in (first, first + request["frames"])
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if sizes.get("device") == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"cpu_seconds": long[0] - short[0], "wall_seconds": long[1] - short[1], "peak_mib": peak}


def _drain(made: Any) -> Any:
    """What a generator returns in the end; anything else as it is."""
    while inspect.isgenerator(made):
        try:
            next(made)
        except StopIteration as end:
            return end.value
    return made


def _time(work: Callable[[], object], sizes: dict[str, Any]) -> tuple[float, float]:
    wait: Callable[[], object] = torch.cuda.synchronize if sizes.get("device") == "cuda" else int
    wait()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    wait()
    return time.process_time() - cpu, time.perf_counter() - wall
