"""Token directories of random units and codes, and a GPST experiment of one epoch on them."""

from __future__ import annotations

import numpy as np
import pytest
from fabricated import tone

GPST_SMALL = ["--corelm", "gpst", "--primary", "prefix", "--primary_conf", "width=32", "--primary_conf", "layers=1"]
GPST_SMALL += ["--local", "ar,maskgit", "--local_conf", "ar.width=16", "--local_conf", "maskgit.width=16"]
FILES = (
    ("semantic.scp", "semantic"),
    ("codes.scp", "codes"),
    ("prompt.scp", "prompt"),
    ("prompt_semantic.scp", "prompt_semantic"),
)


@pytest.fixture(scope="session")
def token_corpus(tmp_path_factory):
    """Codec, semantic tokenizer of 50 Hz, and token directories of random tokens, utterances of 1 s and more."""
    pytest.importorskip("espnet2")
    from espnet_ext.data.ark import codes_writer
    from espnet_ext.data.datadir import read_scp, write_scp
    from espnet_ext.tokenizers.codec import copy_codec, create_codec, save_codec
    from espnet_ext.tokenizers.semantic import copy_semantic, create_semantic, save_semantic

    root = tmp_path_factory.mktemp("tokens")
    codec = create_codec("world_vq", [tone(), tone(0.7)], seed=0, conf={"codebook_size": 8})
    save_codec(codec, "world_vq", root / "codec", origin={})
    tokenizer = create_semantic("mfcc_km", iter([tone(), tone(0.7)]), seed=0, conf={"num_units": 12})
    save_semantic(tokenizer, "mfcc_km", root / "semantic", deduplicate=True, origin={})
    (root / "tokens.txt").write_text("\n".join(["<unk>", "<space>", *"abcd", "<eos>"]) + "\n")
    rng = np.random.default_rng(0)
    for name, size in (("train", 6), ("dev", 2)):
        directory = root / name
        with codes_writer(directory) as write:
            for index in range(size):
                write(f"s-{index}", rng.integers(8, size=(25 + index, 8)))
        pointers = read_scp(directory / "codes.scp")
        names = sorted(pointers)
        with codes_writer(root / f"{name}_units") as write:
            for index in range(size):
                write(f"s-{index}", rng.integers(12, size=(50 + 2 * index, 1)))
        units = read_scp(root / f"{name}_units" / "codes.scp")
        write_scp(directory / "semantic.scp", units)
        prompts = dict(zip(names, names[1:] + names[:1], strict=True))
        write_scp(directory / "utt2prompt", prompts)
        write_scp(directory / "prompt.scp", {n: pointers[p] for n, p in prompts.items()})
        write_scp(directory / "prompt_semantic.scp", {n: units[p] for n, p in prompts.items()})
        write_scp(directory / "text", {n: "abcd dcba"[: 3 + i] for i, n in enumerate(names)})
        write_scp(directory / "utt2spk", dict.fromkeys(names, "s"))
        write_scp(directory / "utt2lang", {n: "en" if i % 2 else "zh" for i, n in enumerate(names)})
        write_scp(directory / "shape", {n: f"{25 + i},8" for i, n in enumerate(names)})
        np.savez(directory / "silence.npz", codes=np.zeros((25, 8), np.int32), units=np.zeros(50, np.int32))
        copy_codec(root / "codec", directory)
        copy_semantic(root / "semantic", directory)
    return root


def gpst_command(tokens, output, *more, small=GPST_SMALL, conf=None):
    """The command line of a training of GPST of one epoch on the token directories."""
    line = ["--output_dir", str(output), "--ngpu", "0", "--num_workers", "0", "--use_matplotlib", "false"]
    line += ["--use_tensorboard", "false", "--codec_info", str(tokens / "codec" / "codec_info.yaml")]
    line += ["--semantic_info", str(tokens / "semantic" / "semantic_info.yaml")]
    if conf is None:
        line += [*small, "--batch_type", "unsorted", "--batch_size", "3", "--max_epoch", "1"]
    else:
        line += ["--config", str(conf)]
    for part, name in (("train", "train"), ("valid", "dev")):
        for file, key in FILES:
            line += [f"--{part}_data_path_and_name_and_type", f"{tokens / name / file},{key},kaldi_ark"]
        line += [f"--{part}_shape_file", str(tokens / name / "shape")]
    return [*line, *more]


@pytest.fixture(scope="session")
def gpst_experiment(token_corpus, tmp_path_factory):
    """One trained epoch of GPST at S = 2, with prompts joined to half of the utterances."""
    from espnet_ext.tasks.codec_lm import CodecLMTask

    output = tmp_path_factory.mktemp("exp") / "gpst"
    conf = output.parent / "train.yaml"
    conf.write_text("best_model_criterion: [[valid, loss, min]]\nkeep_nbest_models: 1\nframe_stacking_factor: 2\n")
    CodecLMTask.main(cmd=gpst_command(token_corpus, output, "--config", str(conf), "--join_prompt", "0.5"))
    return output
