"""What a training that begins with another experiment takes over from it: its codec, its token list, its configuration.

python local/from_experiment.py --exp EXP --codec_out dump/codec_lyra        the codec
python local/from_experiment.py --exp EXP --token_list tokens.txt            the tokens, and its SentencePiece model
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import yaml

from espnet_ext.bin import run
from espnet_ext.errors import UserError
from espnet_ext.inference.experiment import Experiment
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tokenizers.codec import codec_files
from espnet_ext.tokenizers.text.bpe import BPE_NAME

# keys of a training configuration that are the experiment's; the others are the new training's
TAKEN = (
    *("corelm", "corelm_conf", "primary", "primary_conf", "local", "local_conf"),
    *("model_conf", "frame_stacking_factor", "prompt_sec"),
)


def open_experiment(directory: Path) -> Experiment:
    """An experiment that a training for text and codes can begin with.

    Args:
        directory: of it.

    Returns:
        The experiment.

    Raises:
        UserError: if it is of another kind.
    """
    experiment = Experiment.read(directory)
    if experiment.inputs.required != ("text", "codes") or experiment.says_units:
        raise UserError(f"--init_from must be an experiment that reads text and makes codes, got {directory}")
    return experiment


def finetuning_conf(experiment: Experiment, conf: Path) -> str:
    """The configuration of the new training: the experiment's model, and how `conf` trains."""
    told = vars(experiment.args)
    content = read_yaml(conf, "train_config")
    # parts are trained beside any model: those of the configuration stay
    parts = {**told.get("parts", {}), **content.get("parts", {})}
    content |= {key: told[key] for key in TAKEN if key in told} | ({"parts": parts} if parts else {})
    return f"# The model of {experiment.directory}, trained as {conf.name} says.\n" + yaml.safe_dump(
        content, sort_keys=False
    )


def recipe_options(experiment: Experiment) -> list[str]:
    """Options of the recipe that must be those of the experiment."""
    args, codec = experiment.args, experiment.args.codec_info
    tag = f"{codec['codec']}_{codec['fingerprint'][:8]}"
    options = {"codec": codec["codec"], "codec_conf": "", "codec_tag": tag, "fs": codec["spec"]["sample_rate_hz"]}
    options |= {"token_type": args.token_type, "g2p": getattr(args, "g2p", "none"), "cleaner": args.cleaner}
    options |= {"stacking": args.frame_stacking_factor}
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="the experiment")
    parser.add_argument("--codec_out", type=Path, help="directory for its codec")
    parser.add_argument("--token_list", type=Path, help="file for its tokens")
    args = parser.parse_args()
    experiment = open_experiment(args.exp)
    if args.codec_out is not None:
        codec_files.copy(args.exp / codec_files.classes.kind, args.codec_out)
    if args.token_list is not None:
        with atomic_path(args.token_list) as temporary:
            temporary.write_text("\n".join(experiment.inputs.tokenizer.tokens) + "\n", encoding="utf-8")
        if experiment.args.bpemodel:
            shutil.copyfile(experiment.args.bpemodel, args.token_list.with_name(BPE_NAME))


if __name__ == "__main__":
    run(main)
