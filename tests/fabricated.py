"""A codec, a corpus of random codes, and an experiment of one epoch, made once for all tests that need ESPnet."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from espnet_ext.bin import run

SMALL = ["--primary_conf", "width=32", "--primary_conf", "layers=1", "--local", "ar,maskgit"]
SMALL += ["--local_conf", "ar.width=16", "--local_conf", "maskgit.width=16"]


def tone(seconds=1.0):
    """A voice-like sound: harmonics of a gliding pitch, and noise."""
    time = np.arange(int(16000 * seconds)) / 16000
    phase = 2 * np.pi * (120 * time + 20 * time**2)
    noise = np.random.default_rng(0).normal(0, 0.01, time.shape)
    return (sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.1 + noise).astype(np.float32)


def one_error(main, *arguments) -> str:
    """The line that a command ends with."""
    with pytest.raises(SystemExit) as caught:
        run(lambda: main([str(argument) for argument in arguments]))
    line = str(caught.value)
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Codec, token list, and data directories of random codes."""
    pytest.importorskip("espnet2")
    from espnet_ext.data.ark import codes_writer
    from espnet_ext.data.datadir import write_scp
    from espnet_ext.tokenizers.codec import copy_codec, create_codec, save_codec

    root = tmp_path_factory.mktemp("corpus")
    codec = create_codec("world_vq", [tone(), tone(0.7)], seed=0, conf={"codebook_size": 8})
    save_codec(codec, "world_vq", root / "codec", origin={})
    (root / "tokens.txt").write_text("\n".join(["<unk>", "<space>", *"abcd", "<eos>"]) + "\n")
    rng = np.random.default_rng(0)
    for name, size in (("train", 6), ("dev", 2)):
        directory = root / name
        with codes_writer(directory) as write:
            for index in range(size):
                write(f"s-{index}", rng.integers(8, size=(5 + index, 8)))
        scp = (directory / "codes.scp").read_text().splitlines()
        pointers = dict(line.split(maxsplit=1) for line in scp)
        names = sorted(pointers)
        write_scp(directory / "prompt.scp", dict(zip(names, [pointers[n] for n in names[1:] + names[:1]], strict=True)))
        write_scp(directory / "text", {n: "abcd dcba"[: 3 + i] for i, n in enumerate(names)})
        write_scp(directory / "utt2spk", dict.fromkeys(names, "s"))
        write_scp(directory / "shape", {n: f"{5 + i},8" for i, n in enumerate(names)})
        copy_codec(root / "codec", directory)
    return root


def command(corpus, output, *more, conf=None):
    """The command line of a training of one epoch on the corpus."""
    line = ["--output_dir", str(output), "--token_list", str(corpus / "tokens.txt"), "--ngpu", "0"]
    line += ["--codec_info", str(corpus / "codec" / "codec_info.yaml"), "--num_workers", "0"]
    line += ["--use_matplotlib", "false", "--use_tensorboard", "false"]
    for part, name in (("train", "train"), ("valid", "dev")):
        for file, key, kind in (
            ("text", "text", "text"),
            ("codes.scp", "codes", "kaldi_ark"),
            ("prompt.scp", "prompt", "kaldi_ark"),
        ):
            line += [f"--{part}_data_path_and_name_and_type", f"{corpus / name / file},{key},{kind}"]
        line += [f"--{part}_shape_file", str(corpus / name / "shape")]
    if conf is None:
        line += [*SMALL, "--batch_type", "unsorted", "--batch_size", "3", "--max_epoch", "1"]
    else:
        line += ["--config", str(conf)]
    return [*line, *more]


def spoil(checkpoint, value):
    """Put a value into the weights of an npz file; the name of what holds it comes back."""
    with np.load(checkpoint) as arrays:
        content = dict(arrays)
    key = max(one for one in content if content[one].dtype.kind == "f" and content[one].size)
    content[key].flat[0] = value
    np.savez(checkpoint, **content)
    return key


def linked(experiment, place):
    """Another directory with the files of an experiment, in which files may be added and replaced."""
    place.mkdir()
    for path in experiment.iterdir():
        (place / path.name).symlink_to(path)
    return place


@pytest.fixture(scope="session")
def experiment(corpus, tmp_path_factory):
    """One trained epoch at S = 2, with an AR and a MaskGIT local transformer beside the parallel heads."""
    from espnet_ext.tasks.codec_lm import CodecLMTask

    output = tmp_path_factory.mktemp("exp") / "model"
    config = {"best_model_criterion": [["valid", "loss", "min"]], "keep_nbest_models": 1, "frame_stacking_factor": 2}
    conf = output.parent / "train.yaml"
    conf.write_text(yaml.safe_dump(config))
    CodecLMTask.main(cmd=command(corpus, output, "--config", str(conf)))
    return output


TABLE = "|strategy|WER %|\n|---|---:|\n|parallel|9.1|"
RESULTS = (
    f"# RESULTS\n\n- data: `/home/me/secret`\n\n## test\n\n### Strategies\n\n{TABLE}\n\n### WER\n\n![wer](a/wer.png)\n"
)


@pytest.fixture(scope="session")
def voice(experiment, tmp_path_factory):
    """The fabricated experiment in one file."""
    from espnet_ext.bin import pack

    place = tmp_path_factory.mktemp("packed")
    (place / "RESULTS.md").write_text(RESULTS)
    output = place / "voice.zip"
    pack.main([str(experiment), "-o", str(output), "--results", str(place / "RESULTS.md"), "--data_license", "CC0 1.0"])
    return output
