"""Layers that utterances use: all of them are the model itself, and one that is skipped is as if it were not there."""

from __future__ import annotations

import copy
import logging
from argparse import ArgumentParser
from typing import Any

import pytest
import torch
from conftest import SAMPLING, SPEC, ragged_batch, tiny_model
from test_gpst import ragged, tiny_gpst
from torch import nn

from espnet_ext.bin.speaking import add_sampling_options
from espnet_ext.decoding import FULL, Routed, build_depth, build_order, build_strategy, generate, generate_stream
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.sampling import Sampler, row_generators
from espnet_ext.errors import UserError
from espnet_ext.fast import fallback
from espnet_ext.fast.accelerate import accelerate
from espnet_ext.fast.graphs import Graphs
from espnet_ext.fast.options import FastOptions
from espnet_ext.inference.options import decode_options
from espnet_ext.inference.speech import Timing
from espnet_ext.model.ahead import Ahead
from espnet_ext.model.caches import build_cache
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.model.loss import LossWeights, codec_loss
from espnet_ext.model.primary import PrimaryState
from espnet_ext.testing.models import NAMES, assert_rows_are_their_own, decode, shared_model
from espnet_ext.testing.speculation import order_of

PRIMARIES = ("cross_attention", "cross_attention_annealed", "prefix", "prefix_learned")
LIMITS = torch.tensor([9, 15, 12])
ROUTED = Routed()
USED = ((True, False), (False, True), (True, True))  # of the rows of the ragged batch


class Chosen(Routed):
    """What a test says, by the length of a text."""

    def check_model(self, model: Any) -> None:
        pass

    def choose(self, model: Any, conditions: Any) -> RowLayers:
        by_length = dict(zip((7, 4, 5), USED, strict=True))
        return RowLayers(torch.tensor([by_length[one] for one in conditions.text_lengths.tolist()]))


def without(model: Any, used: tuple[bool, ...]) -> Any:
    """The model without some of its layers."""
    model = copy.deepcopy(model)
    transformer = model.step_transformers()[0]
    transformer.blocks = nn.ModuleList(
        block for block, is_used in zip(transformer.blocks, used, strict=True) if is_used
    )
    return model


# bit by bit


@pytest.mark.parametrize("primary", PRIMARIES)
@pytest.mark.parametrize("sampling", ["greedy", "guided, no repetition"])
def test_with_all_layers_on_the_codes_are_bit_for_bit_those_of_the_model(primary, sampling):
    model = shared_model(primary)
    how = model, ragged_batch(), "local_ar", SAMPLING[sampling], LIMITS
    plain, routed = decode(*how), decode(*how, depth=Routed(0.0))
    assert torch.equal(plain.codes, routed.codes) and torch.equal(plain.logprobs, routed.logprobs)
    assert torch.equal(plain.primary_layers, routed.primary_layers)
    assert torch.equal(plain.primary_layers, 2 * plain.steps)


def test_a_pass_that_names_all_layers_is_bit_for_bit_the_plain_one():
    for primary in PRIMARIES:
        model, batch = shared_model(primary), ragged_batch()
        codes = torch.randint(8, (3, 4, model.slots), generator=torch.Generator().manual_seed(0))
        states = [model.prefill(batch.conditions(model), 12) for _ in range(3)]
        every = RowLayers(torch.ones(3, 2, dtype=torch.bool))
        plain = model.extend(codes, states[0])
        assert torch.equal(plain, model.extend(codes, states[1], LayerPass(rows=every)))
        assert torch.equal(plain, model.extend(codes, states[2], LayerPass(until=2, taps=(1,))))
        for state in states[1:]:
            assert torch.equal(state.cache.keys, states[0].cache.keys)


# what is skipped


@pytest.mark.parametrize("primary", PRIMARIES)
@pytest.mark.parametrize("sampling", ["sampled", "guided, no repetition"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"steps": order_of("jacobi", "gumbel")},
        {"steps": order_of("early_exit", "gumbel")},
        {"steps": order_of("prompts", "gumbel")},
        {"steps": order_of("masks", "gumbel")},
        {"most_rows": 1},
        {"most_rows": 2},
        {"cache": build_cache("gear", buffer=4, rank=0)},
    ],
    ids=["causal", "jacobi", "early_exit", "prompts", "masks", "joining alone", "joining", "gear"],
)
def test_a_row_is_what_a_model_without_the_layers_that_it_skips_makes_of_it(primary, sampling, how):
    """In a batch whose rows skip different ones, which is the oracle for masks, joining and what others read."""
    model, batch = shared_model(primary), ragged_batch()
    together = decode(model, batch, "local_ar", SAMPLING[sampling], LIMITS, depth=Chosen(), **how)
    for row, used in enumerate(USED):
        given = batch.row(row), "local_ar", SAMPLING[sampling], LIMITS[row : row + 1], NAMES[row : row + 1]
        alone = decode(without(model, used), *given, **{name: one for name, one in how.items() if name == "cache"})
        assert int(together.lengths[row]) == int(alone.lengths[0])
        assert torch.equal(together.codes[row, : alone.lengths[0]], alone.codes[0]), row
        if "steps" not in how:
            assert int(together.primary_layers[row]) == sum(used) * int(together.steps[row])


@pytest.mark.parametrize("primary", PRIMARIES)
@torch.no_grad()
def test_what_stands_behind_the_steps_of_a_row_goes_through_its_layers_alone(primary):
    model, batch = shared_model(primary), ragged_batch()
    generator = torch.Generator().manual_seed(0)
    codes, ahead = torch.randint(8, (3, 4, model.slots), generator=generator), Ahead(torch.randn(2, 32).double())
    state = model.prefill(batch.conditions(model), 12, layers=RowLayers(torch.tensor(USED)))
    steps, behind = model.extend_ahead(codes, state, ahead)
    for row, used in enumerate(USED):
        fewer = without(model, used)
        own = fewer.extend_ahead(codes[row : row + 1], fewer.prefill(batch.row(row).conditions(fewer), 12), ahead)
        torch.testing.assert_close(steps[row], own[0][0])
        torch.testing.assert_close(behind[row], own[1][0])


@torch.no_grad()
def test_where_a_row_looks_in_its_text_no_layer_that_it_skips_has_a_say():
    model, batch = tiny_model("cross_attention_annealed"), ragged_batch()
    for block in model.primary.decoder.blocks:
        for weight in block.cross.parameters():
            weight.mul_(4)  # layers that disagree about where to look
    codes = torch.randint(8, (3, 8, model.slots), generator=torch.Generator().manual_seed(0))
    used = [*USED[:2], (False, False)]
    state = model.prefill(batch.conditions(model), 12, layers=RowLayers(torch.tensor(used)))
    model.extend(codes, state)
    for row, mine in enumerate(used):
        fewer, some = (without(model, mine), None) if any(mine) else (model, RowLayers(torch.tensor([mine])))
        alone = fewer.prefill(batch.row(row).conditions(fewer), 12, layers=some)
        fewer.extend(codes[row : row + 1], alone)
        assert state.path[row, :8].tolist() == alone.path[0, :8].tolist()


def test_rows_are_routed_on_their_own():
    assert_rows_are_their_own(shared_model(), "local_ar", SAMPLING["guided"], depth=ROUTED)
    used = (
        shared_model().parts["routers"].probabilities(shared_model().summary(ragged_batch().conditions(shared_model())))
    )
    assert 0 < int((used >= 0.5).sum()) < used.numel(), "nothing was skipped"


def test_a_row_that_reads_what_another_one_has_chosen_is_caught(monkeypatch):
    monkeypatch.setattr(PrimaryState, "layer_pass", lambda self, given=None: (
        given if self.layers is None else LayerPass(rows=RowLayers(self.layers.used.flip(0)))
    ))  # fmt: skip
    with pytest.raises(AssertionError):
        test_a_row_is_what_a_model_without_the_layers_that_it_skips_makes_of_it("prefix", "sampled", {})


def test_what_is_streamed_is_what_is_decoded():
    model, batch = shared_model(), ragged_batch()
    sampler = Sampler(SAMPLING["sampled"], row_generators(0, NAMES))
    given = model, batch.conditions(model), build_strategy("local_ar"), sampler, LIMITS
    *_, last = generate_stream(*given, depth=ROUTED)
    whole = generate(*given[:3], Sampler(SAMPLING["sampled"], row_generators(0, NAMES)), LIMITS, depth=ROUTED)
    assert torch.equal(last.codes, whole.codes)
    timing = Timing.of(whole, model.slots, torch.ones(3), 16000)
    assert timing.primary_layers == int(whole.primary_layers.sum()) < 2 * timing.steps
    assert timing.rates()["layers_per_step"] == timing.primary_layers / timing.steps


@pytest.mark.parametrize("positions", ["rope", "anew"])
def test_a_gpst_is_routed_by_its_units(positions):
    model = tiny_gpst(positions)
    model.add_parts({"routers": {}})
    model = model.double().eval()
    batch = ragged()
    conditions = model.conditions(
        batch["semantic"], batch["semantic_lengths"], batch["codes"][:, :0], batch["semantic_lengths"] * 0
    )
    how = model, conditions, build_strategy("parallel"), Sampler(SAMPLING["greedy"]), 8
    plain, routed = generate(*how), generate(*how, depth=Routed(0.0))
    assert torch.equal(plain.codes, routed.codes) and torch.equal(plain.logprobs, routed.logprobs)
    with torch.no_grad():
        model.parts["routers"].router.bias.copy_(torch.tensor([-9.0, 9.0]))
    assert torch.equal(generate(*how, depth=ROUTED).codes, generate(without(model, (False, True)), *how[1:]).codes)


# what routers learn


def loss_of(model: Any) -> Any:
    return codec_loss(model(*ragged_batch()), SPEC.num_codebooks, LossWeights())


@pytest.mark.parametrize("primary", PRIMARIES)
def test_gates_of_one_are_the_model_and_gates_of_zero_one_without_the_layer(primary):
    model = tiny_model(primary)
    model.add_parts({"routers": {}})
    model = model.double()
    for bias, used in (((9.0, 9.0), (True, True)), ((-9.0, 9.0), (False, True))):
        with torch.no_grad():
            model.parts["routers"].router.bias.copy_(torch.tensor(bias))
        found, right = model(*ragged_batch()).parts["routers"].predictions, without(model, used)(*ragged_batch()).heads
        for name in ("parallel", "ar"):
            torch.testing.assert_close(found[name].logits, right[name].logits)


def test_routers_leave_out_a_layer_that_does_nothing_and_keep_one_that_is_needed():
    torch.manual_seed(0)
    model = tiny_model("prefix", local="none")
    model.add_parts({"routers": {"cost": 0.3}})
    model = model.double()
    idle = model.primary.transformer.blocks[0]
    with torch.no_grad():
        idle.attention.out.weight.zero_()
        idle.feed_forward.down.weight.zero_()
        idle.feed_forward.down.bias.zero_()
    optimizer = torch.optim.Adam([one for name, one in model.named_parameters() if "blocks.0" not in name], lr=0.02)
    for _ in range(60):  # the other layer, with what the codes are
        optimizer.zero_grad()
        loss_of(model).total.backward()
        optimizer.step()
    model.train_only(["routers"])
    model.train()
    optimizer = torch.optim.Adam(model.parts.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(model).total.backward()
        optimizer.step()
    chance = model.eval().parts["routers"].probabilities(model.summary(ragged_batch().conditions(model)))
    assert bool((chance[:, 0] < 0.3).all()) and bool((chance[:, 1] > 0.7).all()), chance
    stats = loss_of(model).stats
    torch.testing.assert_close(stats["loss_routers_layers"], torch.tensor(0.15, dtype=torch.float64))


# options


def test_options_of_before_are_told_as_before_and_others_completely():
    options = DecodeOptions()
    assert options.layers == FULL and not {"depth", "depth_conf"} & {*options.given(), *options.complete()}
    other = options.changed(depth="routed")
    assert other != options and hash(other) != hash(options)
    assert other.complete()["depth_conf"] == {"threshold": 0.5}
    assert DecodeOptions(depth="routed", depth_conf={"threshold": 0.2}).changed(depth="full").depth_conf == {}


def test_the_command_line_chooses_a_depth(tmp_path):
    config = tmp_path / "decode.yaml"
    config.write_text("depth: routed\ndepth_conf: {threshold: 0.25}\n")
    parser = ArgumentParser()
    add_sampling_options(parser)
    args = parser.parse_args(["--inference_config", str(config)])
    assert decode_options(args, DecodeOptions).layers == Routed(0.25)
    args.depth = "full"
    assert decode_options(args, DecodeOptions).layers == FULL


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"depth": "deep"}, r"depth must be one of \['full', 'routed'\], got 'deep'"),
        ({"depth": 3}, "depth must be the name of a depth, got 3"),
        ({"depth_conf": {"threshold": 0.5}}, r"depth_conf of full must be among \[\], got \['threshold'\]"),
        ({"depth": "routed", "depth_conf": {"threshold": 2}}, r"threshold must be in \[0, 1\], got 2"),
    ],
    ids=str,
)
def test_what_a_depth_cannot_be_is_refused_in_one_line(conf, message):
    with pytest.raises(UserError, match=message):
        DecodeOptions.from_mapping(conf)


def test_a_model_without_routers_is_refused_before_anything_is_decoded():
    message = r"depth must be 'full' with a model whose parts are \[\], got 'routed'"
    with pytest.raises(UserError, match=message):
        decode(tiny_model(), ragged_batch(), "local_ar", depth=build_depth("routed"))
    with pytest.raises(UserError, match=message):
        DecodeOptions(depth="routed").check(tiny_model())
    assert build_order("causal") is not None


@pytest.mark.parametrize("objective", ["masked", "window"])
@pytest.mark.parametrize("part", ["routers", "early_exit", "hidden_transfer"])
def test_a_model_that_fills_masked_steps_has_no_parts_between_its_layers(objective, part):
    model = tiny_model(objective=objective, mask_conf={"span": 4})
    message = f"parts must be without {part}, which is for objective causal, with objective {objective}"
    with pytest.raises(UserError, match=message):
        model.add_parts({part: {}})
    with pytest.raises(UserError, match="depth must be 'full' with a model whose parts are"):
        DecodeOptions(order=objective, depth="routed").check(model)


# what makes steps faster


def test_graphs_go_on_without_where_layers_are_skipped_and_say_so(caplog):
    fallback._tell.cache_clear()
    model, batch = shared_model(), ragged_batch()
    sampler = Sampler(SAMPLING["greedy"])
    given = model, batch.conditions(model), build_strategy("local_ar"), sampler, LIMITS
    with caplog.at_level(logging.WARNING):
        for depth, kept in ((Chosen(), 0), (Routed(0.0), 1)):
            graphs = Graphs(capture=False)
            made, right = generate(*given, step=graphs, depth=depth), generate(*given, depth=depth)
            assert torch.equal(made.codes, right.codes) and torch.equal(made.primary_layers, right.primary_layers)
            assert len(graphs.steps) >= kept and bool(graphs.steps) == bool(kept)
    told = [record.message for record in caplog.records if record.message.startswith("graphs: going on without")]
    assert told == ["graphs: going on without: it runs all layers, with depth full"]


@pytest.mark.parametrize("native", [False, True])
def test_packed_models_skip_layers_too(native):
    model, batch = shared_model(), ragged_batch()
    how = "local_ar", SAMPLING["guided"], LIMITS
    model = copy.deepcopy(model).float()
    right = decode(model, batch, *how, depth=Chosen())
    accelerate(model, FastOptions("float32", native=native))
    assert torch.equal(decode(model, batch, *how, depth=Chosen()).codes, right.codes)
