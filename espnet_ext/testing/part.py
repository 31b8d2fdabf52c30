"""The contract of what is trained beside a model: it learns, alone if wanted, and the model stays what it is."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.decoding import build_strategy, generate
from espnet_ext.decoding.sampling import Sampler, row_generators
from espnet_ext.model.core_lm import GPST, TextCoreLM
from espnet_ext.model.core_lm.base import CoreLM
from espnet_ext.model.loss import Loss, LossWeights, codec_loss
from espnet_ext.model.parts import parts
from espnet_ext.testing.contract import hold_to
from espnet_ext.testing.models import (
    NAMES,
    PRIMARIES,
    SAMPLING,
    SPEC,
    TEXT_VOCAB,
    Batch,
    decode,
    ragged_batch,
    tiny_model,
)
from espnet_ext.testing.refusal import assert_refused

Conf = Mapping[str, Any]
Clause = Callable[[str, int, Conf], None]  # of a registered name, S and the options of the part
UNITS = CodecSpec(num_codebooks=1, codebook_size=6, frame_rate_hz=25.0, sample_rate_hz=16000)
UPDATES = 2
# a part may need any of the heads
LOCALS: dict[str, Any] = {
    "local": ["ar", "maskgit"],
    "local_conf": {"ar": {"width": 16, "heads": 2}, "maskgit": {"width": 16, "heads": 2}},
}


def with_part(model: Any, name: str, conf: Conf) -> Any:
    """The model with the part, its other weights and the random numbers that come untouched."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model.add_parts({name: conf})
    return model.double()


def models_of(stacking: int) -> list[tuple[str, Callable[[], TextCoreLM]]]:
    """Makers of tiny models with corrupted codes and dropped conditions: by S of other primary transformers."""
    how: dict[str, Any] = {"code_corruption": 0.5, "conditioning_dropout": 0.5}
    return [(primary, partial(tiny_model, primary, stacking, **how)) for primary in list(PRIMARIES)[stacking % 2 :: 2]]


def loss_of(model: CoreLM, batch: Batch | None = None) -> Loss:
    """The loss of the ragged batch, or of another one."""
    return codec_loss(model(*(batch or ragged_batch())), SPEC.num_codebooks, LossWeights())


def own_losses(loss: Loss, name: str) -> dict[str, Tensor]:
    """What the part has said of a batch."""
    return {key: value for key, value in loss.stats.items() if key.startswith((f"loss_{name}_", f"acc_{name}_"))}


def the_model_is_bit_for_bit_what_it_is_without(name: str, stacking: int, conf: Conf) -> None:
    """Its scores in training, with the same random numbers, and its codes."""
    for primary, make in models_of(stacking):
        plain, beside = make(), with_part(make(), name, conf)
        outputs = []
        for model in (plain, beside):
            model.train()
            torch.manual_seed(2)
            outputs.append(model(*ragged_batch()))
            model.eval()
        for head, scores in outputs[0].heads.items():
            same = torch.equal(scores.logits, outputs[1].heads[head].logits)
            assert same, f"scores of {head} must be bit for bit the same with part {name}, {primary}"
        codes = [decode(model, ragged_batch(), "local_ar", SAMPLING["guided"]) for model in (plain, beside)]
        same = torch.equal(codes[0].codes, codes[1].codes) and torch.equal(codes[0].logprobs, codes[1].logprobs)
        assert same, f"codes must be bit for bit the same with part {name}, {primary}"


def alone_it_learns_and_nothing_else_changes(name: str, stacking: int, conf: Conf) -> None:
    """With `train_only`: gradients reach all of the part that learns, and nothing beside it."""
    for primary, make in models_of(stacking):
        model = with_part(make(), name, conf)
        before = copy.deepcopy(model.state_dict())
        model.train_only([name])
        model.train()
        own = dict(model.parts[name].named_parameters())
        if not own:
            return
        optimizer = torch.optim.AdamW(own.values(), lr=0.01, weight_decay=0.1)
        for _ in range(UPDATES):
            optimizer.zero_grad()
            loss = loss_of(model)
            assert bool(loss.total.isfinite()), f"the loss of part {name} must be finite, {primary}"
            loss.total.backward()
            optimizer.step()
        reached = [key for key, weight in model.named_parameters() if weight.grad is not None]
        beside = [key for key in reached if not key.startswith(f"parts.{name}.")]
        assert not beside, f"gradients must reach part {name} alone, got {beside[0]}, {primary}"
        missed = [key for key, weight in own.items() if weight.grad is None]
        assert not missed, f"gradients must reach all of part {name}, {missed[0]} has none, {primary}"
        changed = [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])]
        others = [key for key in changed if not key.startswith(f"parts.{name}.")]
        assert changed and not others, f"updates must change part {name} alone, got {changed}, {primary}"


def beside_the_rest_it_learns_too(name: str, stacking: int, conf: Conf) -> None:
    """Without `train_only` the model learns what it learns anyway."""
    model = with_part(tiny_model(stacking=stacking), name, conf).train()
    loss = loss_of(model)
    loss.total.backward()
    missed = [key for key, weight in model.parts.named_parameters() if weight.grad is None]
    assert bool(loss.total.isfinite()) and not missed, f"gradients must reach all of part {name}, got none in {missed}"


def padding_teaches_nothing(name: str, stacking: int, conf: Conf) -> None:
    """What a batch says does not depend on how wide it is, nor on what is in its padding."""
    for primary, make in models_of(stacking):
        model, batch = with_part(make(), name, conf).eval(), ragged_batch()
        exists = torch.arange(batch.codes.shape[1]) < batch.code_lengths[:, None]
        for width, other in ((0, 5), (stacking, 0)):
            codes = F.pad(batch.codes.where(exists[..., None], torch.tensor(other)), (0, 0, 0, width), value=other)
            wide = batch._replace(text=F.pad(batch.text, (0, 2), value=3), codes=codes)
            plain, found = (own_losses(loss_of(model, one), name) for one in (batch, wide))
            for key, value in plain.items():
                torch.testing.assert_close(found[key], value, msg=f"{key} must not depend on padding, {primary}")


def in_evaluation_nothing_is_drawn(name: str, stacking: int, conf: Conf) -> None:
    """Two evaluations say the same, and leave the random numbers alone."""
    model = with_part(tiny_model(stacking=stacking), name, conf).eval()
    before = torch.get_rng_state()
    first, again = (own_losses(loss_of(model), name) for _ in range(2))
    assert all(torch.equal(value, again[key]) for key, value in first.items()), "evaluations must say the same"
    assert torch.equal(torch.get_rng_state(), before), "an evaluation must draw no random numbers"


def it_works_in_bfloat16(name: str, stacking: int, conf: Conf) -> None:
    """Losses are finite where products are in bfloat16, and the model decodes with all its weights in it."""
    model = with_part(tiny_model(stacking=stacking), name, conf).float()
    model.train_only([name])
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model.train())
    said = own_losses(loss, name)
    assert all(bool(value.isfinite()) for value in said.values()), f"losses must be finite in bfloat16, got {said}"
    decode(model.to(torch.bfloat16).eval(), ragged_batch(), "local_ar")


def tiny_gpst(stacking: int = 1, **options: Any) -> GPST:
    """The other core LM, in float64 and eval mode."""
    torch.manual_seed(0)
    how: dict[str, Any] = {**LOCALS, "frame_stacking_factor": stacking, **options}
    return GPST(SPEC, UNITS, primary_conf={**PRIMARIES["prefix"], "dropout": 0.0}, **how).double().eval()


def it_goes_beside_a_gpst(name: str, stacking: int, conf: Conf) -> None:
    """Whose codes may have positions of their own; they stay as they are, too."""
    batch = ragged_batch()
    units, given = (batch.text % UNITS.codebook_size, batch.text_lengths), (batch.codes, batch.code_lengths)
    for pace in (0.0, 0.8):
        model, codes = tiny_gpst(stacking, units_per_frame=pace), []
        nothing = batch.codes[:, :0], torch.zeros_like(batch.code_lengths)
        for _ in range(2):
            sampler = Sampler(SAMPLING["sampled"], row_generators(0, NAMES))
            codes.append(
                generate(model, model.conditions(*units, *nothing), build_strategy("local_ar"), sampler, 8).codes
            )
            if name not in model.parts:
                with_part(model, name, conf)
        assert torch.equal(*codes), f"codes of a gpst must be bit for bit the same with part {name}"
        model.train_only([name])
        loss = codec_loss(model.train()(*units, *given), SPEC.num_codebooks, LossWeights())
        assert bool(loss.total.isfinite()), f"the loss of part {name} must be finite beside a gpst"


def what_it_needs_is_named_where_it_is_absent(name: str, stacking: int, conf: Conf) -> None:
    """A head without which the part makes no sense."""
    needs = parts[name].needs
    for make in (
        partial(tiny_model, stacking=stacking, local="none"),
        partial(tiny_gpst, stacking, parallel_heads=False),
    ):
        model = make()
        if needs is not None and not any(isinstance(head, needs) for head in model.heads.values()):
            message = rf"parts must be without {re.escape(name)}, which needs {needs.__name__}, with heads \["
            assert_refused(partial(model.add_parts, {name: conf}), message)


def weights_of_another_model_are_refused(name: str, stacking: int, conf: Conf) -> None:
    """Of one without the part, or with other shapes of it; those of the same model load, and say the same."""
    wide = {**PRIMARIES["prefix"], "dropout": 0.0, "width": 64}
    plain, beside, same = (tiny_model("prefix", stacking) for _ in range(3))
    with_part(beside, name, conf)
    same.add_parts({name: conf})
    same.double().load_state_dict(beside.state_dict())
    for key, value in own_losses(loss_of(beside), name).items():
        assert torch.equal(own_losses(loss_of(same), name)[key], value), "the same weights must say the same"
    how = {"primary_conf": wide, **LOCALS, "frame_stacking_factor": stacking}
    other = with_part(TextCoreLM(SPEC, TEXT_VOCAB, "prefix", **how), name, conf)
    shapes = [{key: one.shape for key, one in model.parts[name].state_dict().items()} for model in (beside, other)]
    wrong: list[tuple[Any, Any]] = []
    if shapes[0]:
        wrong = [(plain, beside.state_dict()), (beside, plain.state_dict())]
    if shapes[0] != shapes[1]:
        wrong.append((beside.parts[name], other.parts[name].state_dict()))
    for model, weights in wrong:
        try:
            model.load_state_dict(weights)
        except RuntimeError:
            continue
        raise AssertionError(f"weights of another model must not load into part {name}")


def an_unknown_option_is_refused_with_those_there_are(name: str, stacking: int, conf: Conf) -> None:
    """Options are the keywords of the constructor; all have a default."""
    message = f"parts_conf of {re.escape(name)} must be among .*, got .*no_option"
    assert_refused(partial(tiny_model(stacking=stacking).add_parts, {name: {**conf, "no_option": 1}}), message)
    missing = sorted(parts.options(name).keys() - parts.complete(name, {}).keys())
    assert not missing, f"options of part {name} must have defaults, {missing} have none"


PART_CONTRACT: tuple[Clause, ...] = (
    the_model_is_bit_for_bit_what_it_is_without,
    alone_it_learns_and_nothing_else_changes,
    beside_the_rest_it_learns_too,
    padding_teaches_nothing,
    in_evaluation_nothing_is_drawn,
    it_works_in_bfloat16,
    it_goes_beside_a_gpst,
    what_it_needs_is_named_where_it_is_absent,
    weights_of_another_model_are_refused,
    an_unknown_option_is_refused_with_those_there_are,
)


def check_part(name: str, conf: Conf | None = None, stackings: Sequence[int] = (1, 2)) -> None:
    """Hold a registered part to its contract, beside tiny random models.

    Args:
        name: registered name.
        conf: its options; None for the defaults.
        stackings: the S to try.

    Raises:
        AssertionError: saying what it does not keep.
    """
    hold_to(PART_CONTRACT, name, conf, stackings)
