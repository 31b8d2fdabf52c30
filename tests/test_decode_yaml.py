"""What is heard where nothing is said: the experiment keeps its decoding, and its training set tells the limit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from fabricated import command, linked

from espnet_ext.data.inputs.lengths import training_lengths
from espnet_ext.decoding.options import DecodeOptions, GPSTDecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.decode_yaml import AS_DECODED, find_base, keep, keep_unless_chosen, kept_options, kept_yaml
from espnet_ext.inference.speech import cut_off

GREEDY = {"temperature": 0.0}


@pytest.fixture
def own(experiment: Path, tmp_path: Path) -> Path:
    """The experiment, in a place where files may be added."""
    return linked(experiment, tmp_path / "model")


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_are_changed_by_their_names_wherever_they_belong() -> None:
    base = DecodeOptions("local_maskgit", {"n_rounds": 2}, {"top_k": 5})
    assert base.changed(n_rounds=4, temperature=0.5, seed=3, min_frames=2) == DecodeOptions(
        "local_maskgit", {"n_rounds": 4}, {"top_k": 5, "temperature": 0.5}, seed=3, min_frames=2
    )
    assert base.changed(decoding="parallel") == DecodeOptions("parallel", {}, {"top_k": 5}), "rounds mean nothing to it"
    for wrong in ({"heat": 1}, {"threshold": 0.5}, {"decoding": "parallel", "n_rounds": 2}):
        with pytest.raises(UserError, match=r"options must be among \['cache', 'cache_conf', 'cfg_scale', .*, got \["):
            base.changed(**wrong)
    with pytest.raises(UserError, match="temperature must be "):
        base.changed(temperature=-1)


def test_no_seed_draws_one_and_tells_it() -> None:
    drawn = {DecodeOptions("parallel").changed(seed=None).seed for _ in range(3)}
    assert len(drawn) == 3 and all(isinstance(seed, int) for seed in drawn)


def test_options_come_from_a_yaml(tmp_path: Path) -> None:
    path = tmp_path / "decode.yaml"
    path.write_text("sampling: {top_k: 5}\nseed: 7\n")
    assert DecodeOptions.from_yaml(path) == DecodeOptions("local_ar", sampling={"top_k": 5}, seed=7)
    assert DecodeOptions.from_yaml(path, "parallel").decoding == "parallel"
    path.write_text("heat: 1\n")
    with pytest.raises(
        UserError, match=r"inference_config must have keys among .* got \['heat'\] \(in .*decode.yaml\)"
    ):
        DecodeOptions.from_yaml(path)
    bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else '1'}]\n" for n in range(9))
    path.write_text(f"{bomb}sampling: *a8\n")
    with pytest.raises(UserError, match=r"inference_config must be a yaml file, got .* \(it holds too many values\)"):
        DecodeOptions.from_yaml(path)
    with pytest.raises(FileNotFoundError, match="inference_config not found: nowhere.yaml"):
        DecodeOptions.from_yaml("nowhere.yaml")


# --- what an experiment keeps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "order"), [("masked", "masked"), ("window", "window"), ("causal", "speculative")]
)
def test_what_recipes_share_is_decoded_in_the_order_of_the_model(
    objective: str,
    order: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    exp, conf = tmp_path / "recipe/exp/model", tmp_path / "recipe/conf"
    exp.mkdir(parents=True)
    conf.mkdir()
    (exp / "config.yaml").write_text(yaml.safe_dump({"corelm_conf": {"objective": objective}}))
    (conf / "decode_local_ar.yaml").write_text("order: speculative\norder_conf: {width: 3}\nend_guard: 1.0\n")
    with caplog.at_level("INFO"):
        found = [find_base(exp, None, "local_ar").options, kept_options(exp, None, DecodeOptions)[0]]
    conf = {"width": 3} if objective == "causal" else {}
    guard = None if objective == "masked" else 1.0  # it knows the end of an utterance anyway
    assert found == [DecodeOptions(order=order, order_conf=conf, end_guard=guard)] * 2
    assert (f"the model has objective {objective}" in caplog.text) == (objective != "causal")
    assert kept_options(exp, "parallel", DecodeOptions)[0].order == DecodeOptions().for_objective(objective).order
    (tmp_path / "recipe/conf/decode_masked.yaml").write_text("order: masked\norder_conf: {rounds: 3}\n")
    rounds = {"rounds": 3} if objective == "masked" else conf
    assert kept_options(exp, None, DecodeOptions)[0].order_conf == rounds, "as the yaml for such models says"


def test_an_experiment_keeps_one_decode_yaml_per_strategy(tmp_path: Path) -> None:
    assert kept_options(tmp_path, None, DecodeOptions) == (DecodeOptions(), None)
    assert kept_options(tmp_path, "parallel", GPSTDecodeOptions) == (GPSTDecodeOptions("parallel"), None)
    parallel = DecodeOptions("parallel", sampling={"top_k": 5})
    path = keep(tmp_path, parallel, "because")
    assert path.read_text().startswith("# because\ndecoding: parallel\n")
    options, source = kept_options(tmp_path, None, DecodeOptions)
    assert source == path, "where there is none of the usual strategy"
    assert options.complete() == parallel.complete()
    keep(tmp_path, DecodeOptions("local_ar"), "because")
    assert kept_yaml(tmp_path) == path.with_name("decode_local_ar.yaml")
    assert kept_yaml(tmp_path, "parallel") == path and kept_yaml(tmp_path, "local_maskgit") is None


def test_a_strategy_that_is_not_kept_is_decoded_as_the_recipe_says_or_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exp = tmp_path / "recipe/exp/model"
    keep(exp, DecodeOptions("parallel", sampling={"top_k": 5}), "because")
    assert kept_options(exp, "local_maskgit", DecodeOptions) == (DecodeOptions("local_maskgit"), None)
    assert "model keeps no decode yaml for local_maskgit: it is decoded with the defaults" in caplog.text
    (tmp_path / "recipe/conf").mkdir()
    shared = tmp_path / "recipe/conf/decode_local_maskgit.yaml"
    shared.write_text("sampling: {top_k: 7}\n")
    assert kept_options(exp, "local_maskgit", DecodeOptions) == (
        DecodeOptions("local_maskgit", sampling={"top_k": 7}),
        shared,
    )


def test_what_was_chosen_is_not_overwritten_by_what_was_decoded(tmp_path: Path) -> None:
    first, second = (DecodeOptions("parallel", sampling={"top_k": top_k}) for top_k in (5, 6))
    for options in (first, second):
        keep_unless_chosen(tmp_path, options)
        assert kept_options(tmp_path, "parallel", DecodeOptions)[0].complete() == options.complete()
    path = kept_yaml(tmp_path, "parallel")
    assert path is not None and path.read_text().startswith(f"# {AS_DECODED}\n")
    keep(tmp_path, first, "Chosen by somebody.")
    keep_unless_chosen(tmp_path, second)
    assert kept_options(tmp_path, "parallel", DecodeOptions)[0].complete() == first.complete()


@pytest.mark.espnet
def test_speech_is_decoded_as_the_experiment_keeps_it_and_says_so(own: Path) -> None:
    from espnet_ext.inference import CodecLM

    plain = CodecLM.from_experiment(own)("abba")
    assert plain.options == DecodeOptions(retries=1)
    keep(own, DecodeOptions("parallel", sampling=GREEDY, maxlenratio=2.0), "because")
    speak = CodecLM.from_experiment(own)
    kept = speak("abba")
    assert kept.options is not None
    assert (kept.options.decoding, kept.options.sampler.temperature, kept.options.maxlenratio) == ("parallel", 0.0, 2.0)
    same = speak("abba", options=DecodeOptions("parallel", sampling=GREEDY, maxlenratio=2.0))
    assert np.array_equal(kept.codes, same.codes)
    changed = speak("abba", decoding="local_ar", temperature=0.7, seed=3, maxlenratio=3.0)
    told = speak("abba", options=DecodeOptions("local_ar", sampling={"temperature": 0.7}, seed=3, maxlenratio=3.0))
    assert changed.options == told.options and np.array_equal(changed.codes, told.codes)
    changes = {"decoding": "local_ar", "temperature": 0.7, "seed": 3, "maxlenratio": 3.0, "retries": 0}
    *_, last = speak.stream("abba", **changes)
    assert np.array_equal(last.codes, speak("abba", **changes).codes)
    with pytest.raises(UserError, match=r"options must be among .*, got \['heat'\]"):
        speak("abba", heat=1)


@pytest.mark.espnet
def test_commands_decode_as_the_experiment_keeps_it_and_keep_what_they_are_told(
    own: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from espnet_ext.bin import codec_lm_inference, say

    caplog.set_level("INFO")
    config = tmp_path / "decode.yaml"
    config.write_text(yaml.safe_dump({"decoding": "parallel", "sampling": GREEDY, "maxlenratio": 2.0, "seed": 4}))
    common = ["--exp", str(own), "--data_dir", str(corpus / "dev")]
    told = ["--inference_config", str(config), "--keep_config"]
    codec_lm_inference.main([*common, *told, "--output_dir", str(tmp_path / "told")])
    codec_lm_inference.main([*common, "--output_dir", str(tmp_path / "kept")])
    assert (tmp_path / "told/codes.ark").read_bytes() == (tmp_path / "kept/codes.ark").read_bytes()
    assert "decoding as " + str(own / "decode/decode_parallel.yaml") in caplog.text
    codec_lm_inference.main([*common, "--repeat", "2", "--output_dir", str(tmp_path / "again")])
    timing = json.loads((tmp_path / "again/timing.json").read_text())
    assert (timing["seed"], timing["maxlenratio"]) == (6, 2.0), "no repetition has the seed of the configuration"
    say.main([str(own), "abba", "-o", str(tmp_path / "said.wav")])
    assert "decode_parallel.yaml" in caplog.text.rpartition("decoding as ")[2]


# --- how long speech may become ---------------------------------------------------------------------------------------


def test_frames_per_token_are_those_of_nearly_all_training_utterances(tmp_path: Path) -> None:
    codes, text = tmp_path / "codes_shape", tmp_path / "text_shape"
    codes.write_text("".join(f"u{row:03d} {30 if row else 900},8\n" for row in range(400)))
    text.write_text("".join(f"u{row:03d} 10,40\n" for row in range(400)))
    assert training_lengths([str(codes), str(text)], "text") == (3.0, 10, 90.0), "one bad utterance says nothing"
    assert training_lengths([str(codes)], "text") == (None, None, None)
    assert training_lengths([str(codes), str(text)], "semantic") == (None, None, None)


@pytest.mark.espnet
def test_the_limit_is_that_of_the_training_set_whatever_a_token_is(own: Path) -> None:
    from espnet_ext.inference import CodecLM

    config = yaml.safe_load((own / "config.yaml").read_text())
    assert "frames_per_token" in config
    lengths = {}
    for needed in (None, 2.0, 20.0):
        (own / "config.yaml").unlink()
        (own / "config.yaml").write_text(yaml.safe_dump({**config, "frames_per_token": needed}))
        speak = CodecLM.from_experiment(own)
        lengths[needed] = speak.maxlenratio(DecodeOptions())
        assert speak.maxlenratio(DecodeOptions(maxlenratio=4.0)) == 4.0
        frames = len(speak("abba", temperature=5.0, min_frames=1).codes)
        assert frames <= 5 * lengths[needed]
    assert lengths == {None: 6.0, 2.0: 3.0, 20.0: 30.0}


@pytest.mark.espnet
def test_training_writes_what_its_utterances_need_per_token(corpus: Path, tmp_path: Path) -> None:
    from espnet_ext.tasks.codec_lm import CodecLMTask

    utterances = [line.split()[0] for line in (corpus / "train/text").read_text().splitlines()]
    more: list[str] = []
    for name, shape in (("codes", "14,8"), ("text", "4,7")):
        (tmp_path / f"{name}_shape").write_text("".join(f"{one} {shape}\n" for one in utterances))
        more += ["--train_shape_file", str(tmp_path / f"{name}_shape")]
    CodecLMTask.main(cmd=command(corpus, tmp_path / "model", *more))
    config = yaml.safe_load((tmp_path / "model/config.yaml").read_text())
    assert (config["frames_per_token"], config["longest"]) == (3.5, 4)


def test_speech_that_is_cut_ends_in_five_milliseconds_and_not_at_once() -> None:
    samples = np.ones(1000, dtype=np.float32)
    assert cut_off(samples, True, 16000) is samples
    faded = cut_off(samples, False, 16000)
    assert samples.all() and faded[-1] == 0 and (np.diff(faded[-80:]) < 0).all() and (faded[:-80] == 1).all()
    assert not len(cut_off(samples[:0], False, 16000))
    assert cut_off(samples[:3], False, 16000).tolist() == [1, 0.5, 0]
