"""A step without shapes that depend on values, as a CUDA graph needs it, makes the same codes; capture needs a GPU."""

import logging

import pytest
import torch
from conftest import NAMES, SAMPLING, VARIANTS, ragged_batch, tiny_model

from espnet_ext.decoding import build_strategy, generate
from espnet_ext.fast.graphs import Graphed, graphed
from espnet_ext.sampling import Sampler, row_generators

STATIC = [("parallel", {}), ("local_ar", {}), ("local_maskgit", {})]
STATIC += [(name, conf) for name, conf in VARIANTS if name == "local_maskgit"]


def decoded(model, strategy, sampling, seed=3):
    sampler = Sampler(SAMPLING[sampling], row_generators(seed, NAMES))
    return generate(model, ragged_batch().conditions(model), strategy, sampler, 12)


@pytest.mark.parametrize("sampling", list(SAMPLING))
@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize(("name", "conf"), STATIC)
def test_a_static_step_makes_the_codes_of_its_strategy(name, conf, stacking, sampling):
    model = tiny_model("prefix", stacking, conditioning_dropout=0.1)
    strategy = build_strategy(name, **conf)
    static = Graphed(strategy, capture=False)
    for seed in (3, 4):  # the second time nothing is prepared any more
        ours, right = decoded(model, static, sampling, seed), decoded(model, strategy, sampling, seed)
        assert torch.equal(ours.codes, right.codes) and torch.equal(ours.lengths, right.lengths)
        assert torch.equal(ours.local_passes, right.local_passes)
        torch.testing.assert_close(ours.logprobs, right.logprobs)
    assert static.steps or SAMPLING[sampling].repetition_window


def test_strategies_whose_rounds_depend_on_values_run_as_they_are():
    model = tiny_model("prefix")
    for name in ("local_maskgit_adaptive", "local_speculative"):
        static = Graphed(build_strategy(name), capture=False)
        right = decoded(model, build_strategy(name), "sampled")
        assert torch.equal(decoded(model, static, "sampled").codes, right.codes) and not static.steps


def test_a_capture_that_fails_falls_back_with_one_warning(caplog):
    if torch.cuda.is_available():
        pytest.skip("a GPU captures")
    model, strategy = tiny_model("prefix"), build_strategy("local_ar")
    static = Graphed(strategy)
    with caplog.at_level(logging.WARNING):
        ours = decoded(model, static, "sampled")
    assert torch.equal(ours.codes, decoded(model, strategy, "sampled").codes)
    assert len(caplog.records) == 1 and "going on without" in caplog.records[0].message


def test_there_are_no_graphs_on_a_cpu():
    strategy = build_strategy("local_ar")
    assert graphed(strategy, torch.device("cpu")) is strategy
    assert isinstance(graphed(strategy, torch.device("cuda")), Graphed)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "conf"), STATIC)
def test_a_graph_makes_the_codes_of_its_strategy(name, conf):
    model = tiny_model("prefix", 2).float().cuda()
    strategy = build_strategy(name, **conf)
    sampler = Sampler(SAMPLING["sampled"], row_generators(3, NAMES))
    conditions = ragged_batch().conditions(model.cpu())
    model, conditions = model.cuda(), type(conditions)(*(part.cuda() for part in conditions))
    static = Graphed(strategy)
    ours = generate(model, conditions, static, sampler, 12)
    right = generate(model, conditions, strategy, Sampler(SAMPLING["sampled"], row_generators(3, NAMES)), 12)
    assert not static.failed and torch.equal(ours.codes, right.codes)
