"""Which linear backend is the fastest for a shape and a batch, on this machine, now."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor

from espnet_ext.fast.linear import LinearBackend, linear_backends

CACHE_BYTES = 48 << 20  # more than a processor's last-level cache: reading so much leaves nothing else in it


class Calibration:
    """Fastest backend per shape, measured within a budget of time and remembered.

    Weights that a step reads once come from memory, and candidates that differ in precision are measured so: a large
    buffer is read in between. What a step reads several times (a local transformer) stays in the cache.

    Args:
        candidates: names of backends.
        rows: rows of a product, the batch.
        budget_ms: time for all shapes together; when it is used up a shape gets the backend of the one that is nearest
            in size, and without any the first candidate.

    Attributes:
        seconds: time used.
        chosen: (out, in, from memory) → name of the backend.
    """

    def __init__(self, candidates: Sequence[str], rows: int, budget_ms: float = 100.0) -> None:
        self.candidates, self.rows, self.budget = list(candidates), rows, budget_ms / 1000
        self.seconds = 0.0
        self.chosen: dict[tuple[int, int, bool], str] = {}
        self._other = torch.empty(0)

    def choose(self, out_features: int, in_features: int, from_memory: bool) -> str:
        """Name of the fastest backend.

        Args:
            out_features: of the map.
            in_features: of the map.
            from_memory: whether a step reads the weights once.

        Returns:
            The name.
        """
        key = (out_features, in_features, from_memory)
        if len(self.candidates) == 1:
            return self.candidates[0]
        if key not in self.chosen:
            started = perf_counter()
            left = self.budget - self.seconds
            self.chosen[key] = self._measure(*key, left) if left > 0 else self._nearest(*key)
            self.seconds += perf_counter() - started
        return self.chosen[key]

    def _nearest(self, out_features: int, in_features: int, from_memory: bool) -> str:
        size = out_features * in_features
        known = sorted(self.chosen, key=lambda key: (key[2] != from_memory, abs(key[0] * key[1] - size)))
        return self.chosen[known[0]] if known else self.candidates[0]

    @torch.inference_mode()
    def _measure(self, out_features: int, in_features: int, from_memory: bool, budget: float) -> str:
        started = perf_counter()
        # who reads as many bytes as the others is as far in front of them in the cache, and needs no time to forget
        same_bytes = len({linear_backends[name].precision for name in self.candidates}) == 1
        # a slice is packed in a fraction of the time; a small one says less about the whole
        out = min(out_features, max(64, (1 << (21 if same_bytes else 19)) // in_features))
        weight, x = torch.full((out, in_features), 0.02), torch.randn(self.rows, 1, in_features)
        packed = {name: linear_backends[name](weight, None) for name in self.candidates}
        times: dict[str, list[float]] = {name: [] for name in self.candidates}
        for backend in packed.values():
            backend(x)  # the first call is slower
        while not times[self.candidates[-1]] or (
            perf_counter() - started < budget / 4 and len(times[self.candidates[-1]]) < 7
        ):
            if from_memory and not same_bytes:
                self._forget()
            for name, backend in packed.items():
                times[name].append(_time(backend, x))
        return min(times, key=lambda name: sorted(times[name])[len(times[name]) // 2])

    def _forget(self) -> None:
        if not self._other.numel():
            self._other = torch.zeros(CACHE_BYTES // 4)
        self._other.sum()


def _time(backend: LinearBackend, x: Tensor) -> float:
    started = perf_counter()
    backend(x)
    return perf_counter() - started
