"""Every file of conf/ works as it is: training configurations build, decoding configurations decode."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import pytest
import torch
import yaml
from conftest import built_in
from fabricated import command
from fabricated_tokens import gpst_command

pytest.importorskip("espnet2")
from espnet_ext.codes import CodecSpec
from espnet_ext.decoding import build_strategy, generate, strategies
from espnet_ext.decoding.options import DecodeOptions, GPSTDecodeOptions
from espnet_ext.decoding.sampling import Sampler, row_generators
from espnet_ext.model.core_lm import GPST, TextCoreLM
from espnet_ext.storage.torchaudio_shim import import_torchaudio
from espnet_ext.tasks.codec_lm import CodecLMTask

import_torchaudio()
from espnet2.tasks.abs_task import scheduler_classes  # noqa: E402

pytestmark = pytest.mark.espnet
CONF = Path(__file__).resolve().parent.parent / "conf"
TRAIN = {path.stem: path for path in sorted(CONF.glob("train_*.yaml"))}
SHARED = "decode_fsdd"  # of all strategies of one recipe, so it names none
DECODE_GPST = "decode_gpst"  # of another command, with options of its own
FILLING = {"decode_masked": "train_mini_masked", "decode_window": "train_mini_window"}  # of other orders, and models
OTHERS = (SHARED, DECODE_GPST, *FILLING)
DECODE = {path.stem: path for path in sorted(CONF.glob("decode_*.yaml")) if path.stem not in OTHERS}
PAPER = {
    "train_parallel": (["parallel"], 1),
    "train_parallel_stack2": (["parallel"], 2),
    "train_parallel_stack4": (["parallel"], 4),
    "train_delay": (["parallel"], 1),
    "train_local_ar": (["parallel", "ar"], 1),
    "train_local_ar_stack2": (["parallel", "ar"], 2),
    "train_local_ar_stack4": (["parallel", "ar"], 4),
    "train_local_maskgit": (["parallel", "maskgit"], 1),
    "train_local_maskgit_stack2": (["parallel", "maskgit"], 2),
    "train_local_maskgit_stack4": (["parallel", "maskgit"], 4),
}
# codebooks, and parameters as the paper rounds them
PAPER_GPST = {"train_gpst": (8, 190e6), "train_gpst_hires": (16, 207e6)}
SHRUNK = ["--primary_conf", "width=32", "--primary_conf", "heads=2", "--primary_conf", "layers=1"]
SHRUNK += ["--max_epoch", "1", "--num_workers", "0"]


def build(line):
    """The completed options of a command line, and the model; optimizer and scheduler can be built as well."""
    args = CodecLMTask.get_parser().parse_args(line)
    model = CodecLMTask.build_model(args)
    (optimizer,) = CodecLMTask.build_optimizers(args, model=model)
    if args.scheduler is not None:
        scheduler_classes[args.scheduler](optimizer, **args.scheduler_conf)
    return vars(args), model


def line_of(name, corpus, token_corpus, output, *more):
    """The command line of a training with a configuration."""
    if yaml.safe_load(TRAIN[name].read_text())["corelm"] == "gpst":
        return gpst_command(token_corpus, output, *more, conf=TRAIN[name])
    return command(corpus, output, *more, conf=TRAIN[name])


@pytest.fixture
def big():
    """Frees the big models, 0.7 GB each, as soon as each test is over."""
    yield
    gc.collect()


@pytest.mark.parametrize("name", TRAIN)
def test_every_training_configuration_builds_its_model(corpus, token_corpus, tmp_path, big, name):
    written, model = build(line_of(name, corpus, token_corpus, tmp_path))
    stated = yaml.safe_load(TRAIN[name].read_text())
    for key in stated.keys() - {"num_workers"}:  # the command line sets it to 0
        got = {name: written[key][name] for name in stated[key]} if key.endswith("_conf") else written[key]
        if key == "local_conf":  # the options of each head are completed
            by_name = stated["local"] if isinstance(stated["local"], list) else None
            for name_of_head in by_name or [None]:
                own, full = (part[name_of_head] if by_name else part for part in (stated[key], written[key]))
                assert {option: full[option] for option in own} == own
        else:
            assert got == stated[key]
    assert len(TRAIN[name].read_text().splitlines()) <= 60
    if name in PAPER:
        assert (list(model.corelm.heads), model.corelm.stacking) == PAPER[name]
        assert model.corelm.layout.delays == (tuple(range(8)) if name == "train_delay" else ())
        assert 165e6 < sum(parameter.numel() for parameter in model.parameters()) < 195e6


@pytest.mark.parametrize(
    "name",
    [
        "train_tiny",
        "train_mini",
        "train_mini_masked",
        "train_mini_window",
        "train_fsdd",
        "train_mini_prefix",
        "train_tiny_gpst",
        "train_mini_gpst",
    ],
)
def test_the_recipes_configurations_build_with_stacked_frames(corpus, token_corpus, tmp_path, name):
    _, model = build(line_of(name, corpus, token_corpus, tmp_path, "--frame_stacking_factor", "2"))
    assert model.corelm.stacking == 2


def test_the_configurations_of_the_paper_are_all_there():
    assert set(PAPER) | set(PAPER_GPST) <= set(TRAIN)


@pytest.mark.parametrize("name", PAPER_GPST)
def test_gpst_has_the_size_that_the_paper_states(name):
    content = yaml.safe_load(TRAIN[name].read_text())
    codebooks, stated = PAPER_GPST[name]
    options = {key: content[key] for key in ("primary_conf", "local_conf")} | content["corelm_conf"]
    spec = CodecSpec(codebooks, codebook_size=1024, frame_rate_hz=75.0, sample_rate_hz=24000)
    units = CodecSpec(1, codebook_size=10000, frame_rate_hz=50.0, sample_rate_hz=16000)
    with torch.device("meta"):
        model = GPST(spec, units, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(stated, rel=0.005)
    # what speaker transfer puts into one sequence: 3 s, 0.1 s of silence, 10 s, and the beginnings of both parts
    assert (
        sum(round(sec * rate) for sec in (3, 0.1, 10) for rate in (50, 75)) + 2 <= model.primary.position.num_embeddings
    )


def test_gpst_and_its_high_resolution_differ_in_local_drop_only():
    low, high = (yaml.safe_load(TRAIN[name].read_text()) for name in PAPER_GPST)
    assert (low["corelm_conf"].pop("local_drop"), high["corelm_conf"].pop("local_drop")) == (0.0, 0.5)
    assert low == high


@pytest.mark.parametrize("name", [*PAPER_GPST, "train_text_to_semantic"])
def test_a_configuration_of_gpst_trains_when_it_is_shrunk(corpus, token_corpus, tmp_path, name):
    more = ["--num_iters_per_epoch", "1"]
    if name in PAPER_GPST:
        more += ["--local_conf", "width=16", "--local_conf", "layers=1", "--local_conf", "heads=2"]
    CodecLMTask.main(cmd=line_of(name, corpus, token_corpus, tmp_path, *SHRUNK, *more))
    assert (tmp_path / "valid.loss.ave.pth").is_file()


@pytest.mark.parametrize("name", ["train_delay", "train_local_maskgit_stack4"])
def test_a_configuration_of_the_paper_trains_when_it_is_shrunk(corpus, tmp_path, name):
    more = ["--primary_conf", "text_layers=1"] + ([] if name == "train_delay" else ["--local_conf", "width=16"])
    CodecLMTask.main(cmd=command(corpus, tmp_path, *SHRUNK, *more, conf=TRAIN[name]))
    assert (tmp_path / "valid.loss.ave.pth").is_file()


def test_configurations_of_the_paper_differ_only_where_they_must():
    contents = {name: yaml.safe_load(TRAIN[name].read_text()) for name in PAPER}
    for content in contents.values():
        content["corelm_conf"].pop("delays", None)
        content["model_conf"].pop("local", None)
        for key in ("local", "local_conf", "frame_stacking_factor"):
            content.pop(key, None)
    assert all(content == contents["train_parallel"] for content in contents.values())


@pytest.mark.parametrize("name", TRAIN)
def test_the_header_of_a_training_configuration_holds_its_command(name):
    header = [line for line in TRAIN[name].read_text().splitlines() if line.startswith("#")]
    assert any(f"conf/{name}.yaml" in line for line in header)
    assert name not in PAPER or any("parameters" in line for line in header)


def test_every_strategy_has_a_decoding_configuration_of_its_own():
    assert sorted(DECODE) == [f"decode_{name}" for name in built_in(strategies)]


def test_a_recipe_that_is_decoded_with_guidance_is_trained_for_it():
    content = yaml.safe_load((CONF / f"{SHARED}.yaml").read_text())
    assert DecodeOptions.from_mapping(content).sampler.guided
    for name in ("train_fsdd_base", "train_fsdd"):
        assert yaml.safe_load((CONF / f"{name}.yaml").read_text())["corelm_conf"]["conditioning_dropout"] > 0


def test_the_decoding_configuration_of_gpst_is_complete():
    content = yaml.safe_load((CONF / f"{DECODE_GPST}.yaml").read_text())
    assert GPSTDecodeOptions.from_mapping(content).sampler.temperature > 0
    assert set(content) == {field.name for field in dataclasses.fields(GPSTDecodeOptions)}


@pytest.mark.parametrize("name", FILLING)
def test_the_decoding_configurations_of_other_objectives_are_complete_and_decode_their_models(name):
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    options = DecodeOptions.from_mapping(content)
    assert set(content) == {field.name for field in dataclasses.fields(DecodeOptions)}
    assert set(content["order_conf"]) == {field.name for field in dataclasses.fields(options.steps)}
    trained = yaml.safe_load(TRAIN[FILLING[name]].read_text())
    spec = CodecSpec(num_codebooks=8, codebook_size=32, frame_rate_hz=25.0, sample_rate_hz=16000)
    how = {key: trained[key] for key in ("primary", "primary_conf", "local", "local_conf", "frame_stacking_factor")}
    model = TextCoreLM(spec, 10, **how, **trained["corelm_conf"]).eval()
    options.check(model)
    text, nothing = torch.randint(10, (2, 4)), torch.zeros(2, dtype=torch.int64)
    conditions = model.conditions(text, torch.tensor([4, 2]), torch.zeros(2, 0, 8, dtype=torch.int64), nothing)
    sampler = Sampler(options.sampler, row_generators(options.seed, ["a", "b"]))
    made = generate(model, conditions, options.strategy, sampler, 9, options.min_frames, order=options.steps)
    assert int(made.lengths.min()) >= options.min_frames and int(made.primary_passes.max()) <= 9


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("name", DECODE)
def test_every_decoding_configuration_is_complete_and_decodes(name, stacking):
    content = yaml.safe_load(DECODE[name].read_text())
    options = DecodeOptions.from_mapping(content)
    assert f"decode_{options.decoding}" == name
    assert set(content) == {field.name for field in dataclasses.fields(DecodeOptions)}
    strategy = build_strategy(options.decoding, **options.decoding_conf)
    stated = {field.name for field in dataclasses.fields(strategy)} - {"fixed_schedule"}
    assert set(options.decoding_conf) == stated
    torch.manual_seed(0)
    small = {"width": 16, "heads": 2}
    spec = CodecSpec(num_codebooks=8, codebook_size=32, frame_rate_hz=25.0, sample_rate_hz=16000)
    model = TextCoreLM(
        spec, 10, primary="prefix", primary_conf={**small, "layers": 1}, local=["ar", "maskgit"],
        local_conf={"ar": small, "maskgit": small}, frame_stacking_factor=stacking,
    ).eval()  # fmt: skip
    text, nothing = torch.randint(10, (2, 4)), torch.zeros(2, dtype=torch.int64)
    conditions = model.conditions(text, torch.tensor([4, 2]), torch.zeros(2, 0, 8, dtype=torch.int64), nothing)
    sampler = Sampler(options.sampler, row_generators(options.seed, ["a", "b"]))
    made = generate(model, conditions, strategy, sampler, max_frames=9, min_frames=options.min_frames)
    assert int(made.lengths.min()) >= options.min_frames
    for row, length in enumerate(made.lengths.tolist()):
        spec.check(made.codes[row, :length])
