"""The fast path says what the model as it was trained says."""

import copy
import gc
import importlib
import itertools
import logging
import os
import resource
import time
from pathlib import Path

import pytest
import torch
from conftest import NAMES, SAMPLING, SPEC, VARIANTS, decode, ragged_batch, tiny_model

from espnet_ext.decoding import LocalAR, build_strategy, generate, strategies
from espnet_ext.decoding.request import Decoding, Waiting
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.fast import PRECISIONS, FastOptions, accelerate, linear_backends, native
from espnet_ext.fast.accelerate import NATIVE_ROWS
from espnet_ext.fast.calibrate import Calibration
from espnet_ext.fast.compiled import compile_step
from espnet_ext.fast.folded import FoldedRead, fold
from espnet_ext.fast.linear import backends_of, rows_as_int8
from espnet_ext.model.heads import ARLocalTransformer, MaskGITLocalTransformer
from espnet_ext.model.loss import LossWeights, codec_loss
from espnet_ext.model.primary import rows_of
from espnet_ext.model.rotary import RotaryEmbedding
from espnet_ext.model.transformer import Transformer

# largest difference of a product, in standard deviations of what it should be
LINEAR_ERROR = {"float32": 1e-5, "fp16": 2e-3, "bf16": 2e-2, "int8": 8e-2}
# root mean square difference of logits, in their standard deviations
LOGIT_ERROR = {"float32": 1e-5, "fp16": 1e-3, "bf16": 1e-2, "int8": 3e-2}

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="there is no C++ compiler")
KERNELS = [pytest.param(False, id="torch"), pytest.param(True, id="native", marks=needs_compiler)]


STRATEGIES = [("parallel", {}), ("local_ar", {}), ("local_maskgit", {}), ("local_speculative", {}), *VARIANTS]


def float32_model(*args, **options):
    """A tiny model as it is decoded."""
    return tiny_model(*args, **options).float()


def skip_where_missing(precision: str, is_native: bool) -> None:
    try:
        backends_of(precision, is_native)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", list(linear_backends))
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("out", "given"), [(48, 32), (75, 64), (3, 16)])
def test_every_backend_multiplies(name, rows, out, given):
    kind = linear_backends[name]
    if not kind.is_available():
        pytest.skip(f"{name} is not for this processor")
    torch.manual_seed(0)
    weight, bias, x = torch.randn(out, given), torch.randn(out), torch.randn(rows, 1, given)
    with torch.no_grad():
        for some in (bias, None):
            right = torch.nn.functional.linear(x, weight, some)
            error = (kind(weight, some)(x) - right).abs().max() / right.std()
            assert error < LINEAR_ERROR[kind.precision] * (4 if out == 3 else 1)


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "bf16", "int8"])
def test_a_row_of_a_native_product_does_not_depend_on_the_others(precision):
    backend = linear_backends[f"native_{precision}"](torch.randn(37, 64), torch.randn(37))
    x = torch.randn(9, 64)
    together = backend(x)
    assert all(torch.equal(together[row], backend(x[row : row + 1])[0]) for row in range(9))


@needs_compiler
@pytest.mark.parametrize("given", [16, 768, 3072, 16384])
def test_native_int8_is_the_product_with_its_rounded_weights_and_never_overflows(given):
    weight = torch.randn(9, given)
    weight[0] = 1.0  # with all of x at its largest: the largest sum there is
    x = torch.stack((torch.ones(given), torch.randn(given) * 1e-3, torch.randn(given) * 1e3, torch.zeros(given)))
    rounded, scale = rows_as_int8(weight)
    right = x.double() @ (rounded.double() * scale.double()[:, None]).t()
    ours = linear_backends["native_int8"](weight, None)(x)
    assert ((ours - right).norm(dim=1) <= 1e-4 * max(given / 3072, 1.0) * right.norm(dim=1)).all()


@needs_compiler
def test_what_is_no_number_stays_none_in_native_int8():
    backend = linear_backends["native_int8"](torch.randn(9, 64), None)
    x = torch.randn(3, 64)
    x[1, 5], x[2, 7] = torch.nan, torch.inf
    assert backend(x).isfinite().all(dim=1).tolist() == [True, False, False]


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "bf16", "int8"])
def test_a_processor_without_vector_instructions_computes_the_same(precision, tmp_path, monkeypatch):
    weight, bias, x = torch.randn(37, 64), torch.randn(37), torch.randn(5, 64)
    here = linear_backends[f"native_{precision}"](weight, bias)(x)
    monkeypatch.setattr(native, "FLAGS", [flag for flag in native.FLAGS if flag != "-march=native"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        plain = linear_backends[f"native_{precision}"](weight, bias)(x)
    finally:
        native.library.cache_clear()
    assert list(tmp_path.glob("espnet_ext/*.so"))
    torch.testing.assert_close(plain, here, rtol=1e-6, atol=1e-5 if precision != "int8" else 1e-6)


@pytest.mark.parametrize("is_native", KERNELS)
@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
@pytest.mark.parametrize(("name", "conf"), STRATEGIES)
def test_float32_keeps_the_codes(primary, stacking, name, conf, is_native):
    model = float32_model(primary, stacking, conditioning_dropout=0.1)
    fast = copy.deepcopy(model)
    done = accelerate(fast, FastOptions("float32", native=is_native), rows=NATIVE_ROWS)
    assert all(backend.startswith("native") == is_native for backend in done.backends.values())
    for sampling in ("greedy", "sampled", "guided"):
        ours = decode(fast, ragged_batch(), name, SAMPLING[sampling], 12, seed=3, **conf)
        right = decode(model, ragged_batch(), name, SAMPLING[sampling], 12, seed=3, **conf)
        assert torch.equal(ours.codes, right.codes)
        torch.testing.assert_close(ours.logprobs, right.logprobs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_native", KERNELS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_the_error_of_logits_is_bounded(primary, precision, is_native):
    skip_where_missing(precision, is_native)
    model = float32_model(primary)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data /= 5.0  # as large as they are when a training begins
    fast = copy.deepcopy(model)
    accelerate(fast, FastOptions(precision, native=is_native))
    steps = torch.randint(SPEC.codebook_size, (12, 1, SPEC.num_codebooks))

    @torch.no_grad()
    def logits(which):
        conditions = rows_of(ragged_batch().conditions(which), [0])
        state, found = which.prefill(conditions, len(steps)), []
        for codes in steps:
            hidden = which.step(codes, state)
            found.append(which.heads["parallel"].logits(hidden))
            local = which.heads.of(ARLocalTransformer)
            cache, given, inputs = local.new_cache(1), codes[:, :0], which.heads.inputs(local, hidden)
            for slot in range(local.slots):
                found.append(local.logits(inputs, given, cache))
                given = codes[:, slot : slot + 1]
            masked = which.heads.of(MaskGITLocalTransformer)
            found.append(masked.logits(which.heads.inputs(masked, hidden), codes))
        return torch.cat(found, dim=1)

    right, ours = logits(model), logits(fast)
    error = float((ours - right).square().mean().sqrt() / right.std())
    assert error < LOGIT_ERROR[precision]
    assert precision == "float32" or error > 1e-6, "nothing was rounded"


@needs_compiler
@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("int8", torch.bfloat16)])
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_keys_and_values_are_rounded_where_the_weights_are(primary, precision, dtype):
    model, batch = float32_model(primary), ragged_batch()
    accelerate(model, FastOptions(precision, native=True), rows=NATIVE_ROWS)
    state = model.prefill(batch.conditions(model), 4)
    model.step(model.first_codes(batch.conditions(model)), state)
    assert state.cache.keys.dtype == state.cache.values.dtype == dtype
    written = state.cache.keys[:, :, :, state.cache.length - 1]
    assert written.float().abs().amax() > 0 and written.isfinite().all()
    together = decode(model, batch, "local_ar", SAMPLING["greedy"], 12)
    alone = decode(model, batch.row(1), "local_ar", SAMPLING["greedy"], 12, NAMES[1:2])
    assert torch.equal(together.codes[1, : together.lengths[1]], alone.codes[0])


def test_folded_tables_read_what_projected_ones_do():
    model = float32_model("prefix", 2)
    for local in (model.heads.of(ARLocalTransformer), model.heads.of(MaskGITLocalTransformer)):
        hidden, codes = torch.randn(4, model.primary.width), torch.randint(SPEC.vocab_size, (4, local.slots))
        right = local.read(hidden, codes[:, :-1]), local.read(hidden, codes[:, 1:2], 2)
        fold(local)
        assert isinstance(local.read, FoldedRead)
        torch.testing.assert_close(local.read(hidden, codes[:, :-1]), right[0])
        torch.testing.assert_close(local.read(hidden, codes[:, 1:2], 2), right[1])


def test_calibration_keeps_to_its_budget_and_exact_to_float32():
    names = backends_of("auto")
    calibration = Calibration(names, rows=1, budget_ms=100)
    started = time.perf_counter()
    chosen = {calibration.choose(out, given, True) for out, given in itertools.product((768, 3072), (256, 768))}
    # one shape more than the budget holds may be under way
    assert time.perf_counter() - started < 1.0 and chosen <= set(names)
    done = accelerate(float32_model("prefix"), FastOptions("auto", exact=True))
    assert {linear_backends[name].precision for name in done.backends.values()} == {"float32"}


def test_the_nearest_shape_decides_when_the_budget_is_used_up():
    calibration = Calibration(["row_major", "column_major"], rows=1, budget_ms=0)
    assert calibration.choose(8, 8, True) == "row_major"
    calibration.chosen = {(64, 64, True): "column_major", (9, 9, False): "row_major"}
    assert calibration.choose(60, 60, True) == "column_major"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"precision": "fp8"}, "precision must be one of"),
        ({"precision": "int8", "exact": True}, "precision must be float32 or auto with exact, got 'int8'"),
        ({"native": True, "compile": True}, "compile must be false with native"),
    ],
)
def test_impossible_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        FastOptions(**options)


def test_without_a_compiler_torch_goes_on_after_one_warning(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    native.library.cache_clear()
    with caplog.at_level(logging.WARNING):
        done = accelerate(float32_model("prefix"), FastOptions("float32", native=True))
    native.library.cache_clear()
    assert not any(name.startswith("native") for name in done.backends.values())
    assert [record.message[:6] for record in caplog.records] == ["native"]


def test_a_kernel_that_does_not_compile_is_unavailable(monkeypatch, tmp_path):
    if native.compiler() is None:
        pytest.skip("there is no C++ compiler")
    (tmp_path / "broken.cpp").write_text("this is no C++", encoding="utf-8")
    monkeypatch.setattr(native, "SOURCE", tmp_path / "broken.cpp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    with pytest.raises(native.NativeUnavailable, match="error"):
        native.library()
    native.library.cache_clear()
    assert not list(tmp_path.glob("espnet_ext/*.so"))


def test_a_failing_compilation_falls_back_to_eager_with_one_warning(monkeypatch, caplog):
    model = float32_model("prefix")
    right = decode(copy.deepcopy(model), ragged_batch(), "local_ar", SAMPLING["greedy"], 6)
    calls = []

    def broken(function, **_):
        def compiled(*args, **kwargs):
            calls.append(kwargs)
            raise RuntimeError("the compiler is not well")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    accelerate(model, FastOptions("float32", compile=True))
    with caplog.at_level(logging.WARNING):
        ours = decode(model, ragged_batch(), "local_ar", SAMPLING["greedy"], 6)
    assert torch.equal(ours.codes, right.codes)
    transformers = 3  # of the primary and of two local transformers, of which one is used
    assert 1 <= len(calls) < transformers
    assert all("going on without" in record.message for record in caplog.records) and len(caplog.records) == len(calls)


@pytest.mark.parametrize("sampling", list(SAMPLING))
@pytest.mark.parametrize("name", ["parallel", "local_ar", "local_maskgit", "local_speculative"])
@pytest.mark.parametrize("primary", ["cross_attention", "prefix", "prefix_learned"])
def test_rows_that_leave_the_batch_change_nothing(monkeypatch, primary, name, sampling):
    kind = tiny_model(primary, conditioning_dropout=0.1)
    limits = torch.tensor([3, 14, 8])
    options = SAMPLING[sampling]
    compact = decode(kind, ragged_batch(), name, options, limits, seed=5)
    monkeypatch.setattr(importlib.import_module("espnet_ext.decoding.batch"), "COMPACT_BELOW", 0.0)
    whole = decode(kind, ragged_batch(), name, options, limits, seed=5)
    assert torch.equal(compact.codes, whole.codes) and torch.equal(compact.lengths, whole.lengths)
    assert torch.equal(compact.local_passes, whole.local_passes) and torch.equal(compact.steps, whole.steps)
    torch.testing.assert_close(compact.logprobs, whole.logprobs)


def test_rows_that_have_ended_are_not_computed_any_more():
    model, seen = float32_model("prefix"), []
    step = model.step
    model.step = lambda codes, state: (seen.append((len(codes), state.cache.keys.shape[1])), step(codes, state))[1]
    decode(model, ragged_batch(), "parallel", SAMPLING["sampled"], torch.tensor([4, 4, 20]), min_frames=4)
    assert seen[0] == (3, 3) and seen[-1] == (1, 1)


def test_memory_does_not_grow_with_the_steps():
    model = float32_model("prefix", local="ar")
    accelerate(model, FastOptions("float32"))
    conditions = rows_of(ragged_batch().conditions(model), [0])
    sampler = Sampler(SamplingOptions(0.8), row_generators(0, NAMES[:1]))
    sizes = {}
    # the loop itself: what `generate` returns, and what `generate_stream` yields, is made of all steps
    loop = importlib.import_module("espnet_ext.decoding.generate")._turns
    asked = Decoding(model, conditions, build_strategy("parallel"), sampler, 10_000, 10_000)
    for number, _ in enumerate(loop([0], asked, Waiting(iter(())))):
        if number in (1000, 9999):
            gc.collect()
            sizes[number] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # what is kept: the codes of 9,000 steps, half a kilobyte each with the tensor around them; some room besides
    assert sizes[9999] - sizes[1000] < 20  # 13 or 14 were seen; a mask or a hidden vector of each step would be 40


def test_a_cache_is_large_enough_before_the_first_step():
    model = float32_model("prefix")
    conditions = ragged_batch().conditions(model)
    state = model.prefill(conditions, 7)
    assert state.cache.capacity == state.cache.length + 7
    learned = float32_model("prefix_learned")
    conditions = ragged_batch().conditions(learned)
    with pytest.raises(ValueError, match="max_positions must be at least"):
        generate(learned, conditions, LocalAR(), Sampler(SAMPLING["greedy"]), 5000)


@pytest.mark.parametrize("name", list(strategies))
@pytest.mark.parametrize("primary", ["cross_attention", "cross_attention_annealed", "prefix", "prefix_learned"])
def test_a_model_in_bfloat16_decodes(primary, name):
    model = float32_model(primary, conditioning_dropout=0.1)
    for head in (model.heads.of(ARLocalTransformer), model.heads.of(MaskGITLocalTransformer)):
        fold(head, torch.bfloat16)
    model.to(torch.bfloat16)  # as on a GPU
    result = decode(model, ragged_batch(), name, SAMPLING["guided"], 8)
    SPEC.check(result.codes)
    assert bool(result.logprobs.isfinite().all())


@pytest.mark.parametrize("primary", ["cross_attention", "cross_attention_annealed", "prefix", "prefix_learned"])
def test_a_model_in_bfloat16_is_scored(primary):
    model = float32_model(primary)
    dtypes = torch.float32, torch.bfloat16
    losses = [codec_loss(model.to(dtype)(*ragged_batch()), 3, LossWeights()).stats for dtype in dtypes]
    assert losses[0].keys() == losses[1].keys()
    assert all(bool(one.isfinite()) for one in losses[1].values())
    for name in ("loss_parallel", "loss_ar"):
        torch.testing.assert_close(losses[1][name].float(), losses[0][name].float(), rtol=0.05, atol=0.05)


def test_positions_stay_exact_in_a_model_of_bfloat16():
    exact, half = RotaryEmbedding(16), RotaryEmbedding(16).to(torch.bfloat16)
    assert half.inverse_period.dtype == torch.float64
    assert torch.equal(half.at(1000, 2, torch.float32), exact.at(1000, 2, torch.float32))
    assert torch.equal(half.at(1000, 2, torch.bfloat16), exact.at(1000, 2, torch.bfloat16))


@needs_compiler
def test_code_that_others_could_have_put_into_the_cache_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tmp_path / "espnet_ext"
    place.mkdir()
    place.chmod(0o777)
    native.library.cache_clear()
    try:
        native.library()
        binary = next(place.glob("native-*.so"))
        assert place.stat().st_mode & 0o777 == 0o700
        binary.unlink()
        binary.write_bytes(b"somebody else's")
        binary.chmod(0o666)
        native.library.cache_clear()
        native.library()  # it is compiled again
    finally:
        native.library.cache_clear()
    owner = place.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(native.NativeUnavailable, match="espnet_ext must be your own directory"):
        native.library()


def test_what_torch_compiles_is_kept_where_nobody_else_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    compile_step(Transformer(width=8, layers=1, heads=1))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "espnet_ext" / "inductor")
    assert (tmp_path / "espnet_ext").stat().st_mode & 0o777 == 0o700
