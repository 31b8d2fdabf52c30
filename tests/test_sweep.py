"""The sweep: which cells there are, and that a cell is decoded once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.decode_yaml import Base, find_base
from espnet_ext.inference.sweep import Checkpoint, check_settings, parse_settings, plan, vary

ONE, TWO = Checkpoint(Path("exp/a"), 1), Checkpoint(Path("exp/b"), 2)
CONF = Path("conf/decode.yaml")
PARALLEL = [Base(DecodeOptions("parallel"), CONF)]


def test_cells_are_all_checkpoints_with_all_settings_that_mean_something() -> None:
    bases = [*PARALLEL, Base(DecodeOptions("local_maskgit", sampling={"top_k": 5}), CONF)]
    cells = plan([ONE, TWO], [bases, bases], {"n_rounds": [1, 3], "temperature": [0.5]})
    assert [cell.name for cell in cells] == [
        "s1_parallel_temperature-0.5",
        "s1_local_maskgit_n_rounds-1_temperature-0.5",
        "s1_local_maskgit_n_rounds-3_temperature-0.5",
        "s2_parallel_temperature-0.5",
        "s2_local_maskgit_n_rounds-1_temperature-0.5",
        "s2_local_maskgit_n_rounds-3_temperature-0.5",
    ]
    assert cells[2].options.decoding_conf == {"n_rounds": 3}
    assert cells[2].options.sampling == {"top_k": 5, "temperature": 0.5}


def test_models_of_equal_stacking_have_names_of_their_own() -> None:
    cells = plan([ONE, Checkpoint(Path("other/b"), 1)], [PARALLEL, PARALLEL], {})
    assert [cell.name for cell in cells] == ["s1_parallel_a", "s1_parallel_b"]
    with pytest.raises(ValueError, match="--exp must be directories of different names, got 's1_parallel_a' twice"):
        plan([ONE, Checkpoint(Path("other/a"), 1)], [PARALLEL, PARALLEL], {})


def test_decode_yaml_is_the_user_s_before_the_experiment_s_before_the_recipe_s(tmp_path: Path) -> None:
    recipe = tmp_path / "egs2" / "corpus" / "codec_lm1"
    exp, conf_dir = recipe / "exp" / "model", tmp_path / "mine"
    exp.mkdir(parents=True)
    conf_dir.mkdir()
    places = [conf_dir, exp / "decode", recipe / "conf", tmp_path / "conf"]
    with pytest.raises(FileNotFoundError, match="local_ar of .*/exp/model has no decode yaml: none of ") as caught:
        find_base(exp, conf_dir, "local_ar")
    assert all(str(place / "decode_local_ar.yaml") in str(caught.value) for place in places)
    for top_k, place in reversed(list(enumerate(places))):
        place.mkdir(exist_ok=True)
        path = place / "decode_local_ar.yaml"
        path.write_text(yaml.safe_dump({"sampling": {"top_k": top_k}}))
        assert find_base(exp, conf_dir, "local_ar") == (DecodeOptions("local_ar", sampling={"top_k": top_k}), path)
    path.write_text(yaml.safe_dump({"decoding": "parallel"}))
    with pytest.raises(ValueError, match=r"decode_local_ar\.yaml must be for local_ar, got decoding parallel"):
        find_base(exp, conf_dir, "local_ar")
    path.write_text(yaml.safe_dump({"sampling": {"heat": 1}}))
    with pytest.raises(ValueError, match=r"sampling must have keys among .* got \['heat'\] \(in .*decode_local_ar"):
        find_base(exp, conf_dir, "local_ar")


def test_options_of_an_order_are_varied_where_it_has_them() -> None:
    base, settings = DecodeOptions("parallel", order="masked"), {"rounds": [1, 8], "width": [3], "temperature": [0.5]}
    check_settings({"rounds": [1, 8]}, [Base(base, CONF)])
    found = vary(base, settings)
    assert [name for name, _ in found] == ["_rounds-1_temperature-0.5", "_rounds-8_temperature-0.5"]
    assert [one.order_conf for _, one in found] == [{"rounds": 1}, {"rounds": 8}]
    assert all(one.sampling == {"temperature": 0.5} for _, one in found), "of the sampler, which has one, too"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["n_rounds"], "--set must be NAME=VALUE,VALUE,…, got 'n_rounds'"),
        (["n_rounds=1", "n_rounds=2"], "--set must name every option once, got 'n_rounds' twice"),
    ],
)
def test_settings_are_names_and_values(pairs: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_settings(pairs)


def test_setting_that_means_nothing_to_any_strategy_is_refused_and_impossible_values_are() -> None:
    with pytest.raises(
        ValueError, match=r"--set must name options of \['parallel'\], of the sampler or of order .*got \['n_rounds'\]"
    ):
        check_settings({"n_rounds": [1]}, PARALLEL)
    check_settings({"n_rounds": [1]}, [*PARALLEL, Base(DecodeOptions("local_maskgit"), CONF)])
    with pytest.raises(ValueError, match=r"of order \['causal'\], .*got \['rounds'\]"):
        check_settings({"rounds": [1]}, PARALLEL)
    with pytest.raises(ValueError, match="n_rounds must be at least 1, got 0"):
        plan([ONE], [[Base(DecodeOptions("local_maskgit"), CONF)]], {"n_rounds": [0]})


@pytest.fixture
def command(corpus: Path, experiment: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "conf").mkdir()
    base = {"maxlenratio": 3.0, "sampling": {"temperature": 0.8}}
    for name in ("local_ar", "local_maskgit", "parallel"):
        (tmp_path / "conf" / f"decode_{name}.yaml").write_text(yaml.safe_dump({"decoding": name, **base}))
    options = ["--exp", str(experiment), "--data_dir", str(corpus / "dev"), "--conf_dir", str(tmp_path / "conf")]
    return [*options, "--output_dir", str(tmp_path / "sweep"), "--skip_evaluation"]


@pytest.mark.espnet
def test_cell_is_decoded_once_and_an_interrupted_sweep_goes_on(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_ext.bin import codec_lm_inference, sweep

    real, calls = codec_lm_inference.decode, []

    def interrupted(args, options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append((options.decoding, options.seed, options.decoding_conf))
        real(args, options)

    monkeypatch.setattr(codec_lm_inference, "decode", interrupted)
    command += ["--decodings", "local_maskgit parallel", "--set", "n_rounds=1,2", "--repeats", "2"]
    with pytest.raises(KeyboardInterrupt):
        sweep.main(command)
    monkeypatch.setattr(
        codec_lm_inference, "decode", lambda args, options: (calls.append(options), real(args, options))
    )
    sweep.main(command)
    assert len(calls) == 6, "two before the interruption, four after it: none twice"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("timing.json")}
    assert len(made) == 6
    sweep.main(command)
    assert made == {path: path.stat().st_mtime_ns for path in made}
    sources = yaml.safe_load((tmp_path / "sweep" / "sources.yaml").read_text())
    assert len(sources) == 3 and sources["s2_parallel"] == str(tmp_path / "conf" / "decode_parallel.yaml")
    (timing,) = [json.loads(path.read_text()) for path in made if "n_rounds-2_seed1" in str(path)]
    assert timing["decoding_conf"]["n_rounds"] == 2 and timing["decoding_conf"]["order"]
    assert (timing["seed"], timing["maxlenratio"], timing["frame_stacking_factor"]) == (1, 3.0, 2)


@pytest.mark.espnet
def test_the_recogniser_of_a_sweep_knows_the_words_that_it_knows_in_a_recipe(
    command: list[str], corpus: Path, experiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The README's sweep had 94 words, run.sh 106, and so other error rates of the same codes."""
    from espnet_ext.bin import sweep

    args = sweep.get_parser().parse_args(command)
    assert sweep.evaluation(args, [])[-2:] == ["--vocabulary_text", str(corpus / "train" / "text")]
    args = sweep.get_parser().parse_args([*command, "--asr_vocabulary", "test"])
    assert "--vocabulary_text" not in sweep.evaluation(args, [])
    (tmp_path / "exp").mkdir()
    data = [["gone/train/text", "text", "text"], ["gone/train/codes.scp", "codes", "kaldi_ark"]]
    (tmp_path / "exp" / "config.yaml").write_text(yaml.safe_dump({"train_data_path_and_name_and_type": data}))
    assert sweep.training_texts([tmp_path / "exp"], tmp_path) == []
    assert "gone/train/text of " in caplog.text and "hears words of the test set alone" in caplog.text


@pytest.mark.espnet
def test_precision_is_that_of_every_cell_and_another_one_decodes_again(command: list[str], tmp_path: Path) -> None:
    from espnet_ext.bin import sweep

    timings = []
    for more in ([], ["--precision", "float32"]):
        sweep.main([*command, "--decodings", "parallel", *more])
        (path,) = (tmp_path / "sweep").rglob("timing.json")
        timings.append((json.loads(path.read_text())["precision"], (path.parent / "codes.ark").read_bytes()))
    assert [precision for precision, _ in timings] == [None, "float32"]
    assert timings[0][1] == timings[1][1], "float32 keeps the codes"


@pytest.mark.espnet
def test_cell_that_fails_is_named_and_does_not_stop_the_others(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_ext.bin import codec_lm_inference, sweep

    real = codec_lm_inference.decode

    def fails(args, options):
        if options.decoding == "parallel":
            raise UserError("out of\nmemory")
        real(args, options)

    monkeypatch.setattr(codec_lm_inference, "decode", fails)
    with pytest.raises(ValueError, match="1 of 2 cells failed, see "):
        sweep.main([*command, "--decodings", "parallel local_ar"])
    written = yaml.safe_load((tmp_path / "sweep" / "failed.yaml").read_text())
    assert written == {"left_out": {}, "failed": {"s2_parallel": "out of memory"}}
    assert len(list((tmp_path / "sweep").rglob("timing.json"))) == 1


@pytest.mark.espnet
def test_wrong_options_are_found_before_anything_is_decoded(command: list[str], tmp_path: Path) -> None:
    from espnet_ext.bin import sweep

    for more, message in (
        (["--repeats", "0"], "repeats must be at least 1, got 0"),
        (["--decodings", "parallel", "--set", "n_rounds=1"], "--set must name options of"),
        (["--decodings", "nonsense"], "decoding must be one of"),
        (["--native", "true"], "native must be false without precision"),
        (["--conf_dir", "nowhere"], "conf_dir not found: nowhere"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            sweep.main([*command, *more])
    assert not (tmp_path / "sweep").exists()
