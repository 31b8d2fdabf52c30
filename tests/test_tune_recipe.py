"""Stage tune of a recipe, with a recorder in Python's place."""

from __future__ import annotations

from pathlib import Path

from test_recipes import MODELS, STRATEGIES, copy_recipes, value_of, values_of


def test_sampling_is_tuned_on_the_validation_set_and_decoding_uses_what_was_chosen(tmp_path: Path) -> None:
    mini = copy_recipes(tmp_path, "mini_libritts")
    mini.run("--stop_stage", "tune", "--tune_utterances", "7")
    calls = [call for call in mini.calls() if call[1] == "espnet_ext.bin.tune"]
    for call, model in zip(sorted(calls, key=str), MODELS["mini_libritts"], strict=True):
        exp = f"exp/codec_lm_{model}"
        assert [value_of(call, f"--{name}") for name in ("exp", "output_dir")] == [exp, f"{exp}/decode"]
        assert [value_of(call, "--decodings"), value_of(call, "--limit")] == [" ".join(STRATEGIES), "7"]
        assert value_of(call, "--data_dir") == "dump/codec_world_vq/dev"
        others = [f"dump/codec_world_vq/{name}" for name in ("train", "test_seen", "test_unseen")]
        assert values_of(call, "--not_these") == others
        assert values_of(call, "--vocabulary_text") == ["dump/codec_world_vq/train/text"]
    chosen = mini.directory / "exp/codec_lm_train_mini_world_vq_phn_cmudict_s1/decode/decode_parallel.yaml"
    chosen.write_text("{}\n")
    configs = []
    for more in ([], ["--tune", "false"], ["--inference_config", "conf/decode_fsdd.yaml"]):
        mini.run("--stage", "tune", "--stop_stage", "inference", "--decodings", "parallel", "--stacking", "1", *more)
        calls = [call for call in mini.calls() if "--inference_config" in call]
        configs.append({value_of(call, "--inference_config") for call in calls})
    given = ["../../../conf/decode_parallel.yaml", "../../../conf/decode_fsdd.yaml"]
    assert configs == [{str(chosen.relative_to(mini.directory))}, {given[0]}, {given[1]}]
    assert "--tune_utterances must be a whole number, got 'few'" in mini.run("--tune_utterances", "few", status=2)
