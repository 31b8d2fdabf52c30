"""The benchmark of layers on a model that costs nothing: what its rows rest on runs, and counts what it should."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from espnet_ext.testing.models import ragged_batch, shared_model

pytest.importorskip("espnet2")
pytestmark = pytest.mark.espnet
FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def benchmark_script():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("depth")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_layers_left_out_change_the_likelihood_and_all_of_them_do_not(benchmark_script, primary):
    model, batch = shared_model(primary), ragged_batch()
    given = batch.conditions(model), batch.codes, batch.code_lengths
    found = {
        kind: benchmark_script.likelihood(SimpleNamespace(corelm=model), given, kind)
        for kind in ("full", "without 0", "routed 0")
    }
    aligned, along, layers = found["full"]
    assert layers.tolist() == [2, 2, 2] and bool((aligned > 0).all()) and bool((along > 0).all())
    if primary == "prefix":  # which has no prior, so that both are the same pass
        torch.testing.assert_close(along, aligned)
    for routed, full in zip(found["routed 0"], found["full"], strict=True):
        assert torch.equal(routed, full)
    less, _, layers = found["without 0"]
    assert layers.tolist() == [1, 1, 1] and not torch.allclose(less, aligned)
