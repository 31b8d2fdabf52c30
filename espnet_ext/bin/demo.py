"""A web page, on this machine alone, on which trained models speak: text, voice, S, two strategies, options."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from espnet_ext.bin import run
from espnet_ext.bin.say import speaker_prompt
from espnet_ext.bin.speaking import add_fast_options
from espnet_ext.data.datadir import read_scp, speaker_to_utterances
from espnet_ext.errors import UserError, missing_package
from espnet_ext.registries import strategies
from espnet_ext.storage.pretrained import pretrained, voice_name

if TYPE_CHECKING:
    from espnet_ext.decoding.options import DecodeOptions
    from espnet_ext.demo.speak import Offer
    from espnet_ext.inference import Speaker
    from espnet_ext.inference.model_ref import ModelRef

HOST = "127.0.0.1"
EXAMPLE = "Good morning, it is good to hear your voice."


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--exp",
        action="append",
        type=voice_name,
        required=True,
        metavar="VOICE",
        help="experiment directory, packed voice (.zip), its address, or a hub's owner/name; repeatable",
    )
    parser.add_argument("--data_dir", type=Path, help="directory with codes.scp and utt2spk, for voices to choose from")
    parser.add_argument(
        "--conf_dir",
        type=Path,
        help="directory with decode_<strategy>.yaml; behind it the experiment's decode/, conf/ and the conf/ of its "
        "recipe are looked at",
    )
    parser.add_argument("--port", type=int, default=7860, help="of the page; others than this machine cannot reach it")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the language models run")
    add_fast_options(parser)
    return parser


def read_speakers(data_dir: Path | None, codebooks: int) -> dict[str, NDArray[np.int64]]:
    """Codes of a voice of every speaker.

    Args:
        data_dir: directory with codes.scp and utt2spk; None for no speakers.
        codebooks: N.

    Returns:
        Speaker → codes (T, N).

    Raises:
        UserError: if one has no codes.
    """
    if data_dir is None:
        return {}
    names = speaker_to_utterances(read_scp(data_dir / "utt2spk"))
    return {name: speaker_prompt(name, data_dir, codebooks) for name in names}


def read_texts(data_dir: Path | None) -> list[str]:
    """The texts of a directory that has a file of them; none of one that has not.

    Args:
        data_dir: directory of voices; None for none.

    Returns:
        Texts: the first is an example of what the model was trained to say, their words are what may be heard.
    """
    if data_dir is None or not (data_dir / "text").is_file():
        return []
    return list(read_scp(data_dir / "text").values())


def find_models(args: argparse.Namespace) -> dict[str, ModelRef]:
    """The models of the options by what the page calls them; what is packed or far away is fetched.

    Args:
        args: options of the command.

    Returns:
        Label → model.

    Raises:
        FileNotFoundError: if there is nothing of that name, or it has no config.yaml.
        UserError: if it cannot be fetched, is damaged, or is no model of this kind.
    """
    from espnet_ext.inference.model_ref import ModelRef
    from espnet_ext.inference.options import fast_choices
    from espnet_ext.inference.sweep import Checkpoint

    models = {}
    for given in args.exp:
        exp, model_file = pretrained(given)
        name = given.name if isinstance(given, Path) else given.partition("#")[0].rpartition("/")[2]
        label = f"S = {Checkpoint.read(exp).stacking}: {name}"
        models[label] = ModelRef(exp, model_file, args.device, **fast_choices(args))
    return models


def find_bases(exp: Path, conf_dir: Path | None) -> dict[str, DecodeOptions]:
    """The strategies that a model is offered with: those that have a decode yaml.

    Args:
        exp: experiment directory.
        conf_dir: the user's directory of decode yamls; None if nothing is said.

    Returns:
        Strategy → what the page does not ask.

    Raises:
        UserError: if a yaml is wrong, or there is none.
    """
    from espnet_ext.inference.decode_yaml import find_base

    bases = {}
    for name in strategies:
        try:
            bases[name], source = find_base(exp, conf_dir, name)
            logging.info("%s of %s is decoded as %s says", name, exp, source)
        except FileNotFoundError as error:
            logging.warning("not offered: %s", error)
    if not bases:
        where = "its decode/, conf/ and the conf/ of its recipe" + ("" if conf_dir is None else f", and {conf_dir}")
        raise UserError(f"--conf_dir must have decode_<strategy>.yaml for {exp}: {where} have none")
    return bases


def offer_of(exp: Path, speak: Speaker, conf_dir: Path | None) -> Offer:
    """A model with the strategies that its heads serve and that have a decode yaml.

    Args:
        exp: experiment directory.
        speak: its model.
        conf_dir: the user's directory of decode yamls; None if nothing is said.

    Returns:
        The offer; its default is what the experiment keeps.

    Raises:
        UserError: if a yaml is wrong, or there is none for any of the strategies.
    """
    from espnet_ext.decoding.options import DecodeOptions
    from espnet_ext.demo.speak import Offer, served
    from espnet_ext.inference.decode_yaml import PREFIX, kept_yaml

    bases = find_bases(exp, conf_dir)
    names = served(speak, bases)
    if not names:
        raise UserError(f"exp must have heads for one of {list(bases)}, got {list(speak.corelm.heads)} ({exp})")
    kept = kept_yaml(exp)
    default = DecodeOptions.decoding if kept is None else kept.stem.removeprefix(PREFIX)
    return Offer(speak, {name: bases[name] for name in names}, default if default in names else names[0])


def load_models(wanted: Mapping[str, ModelRef], data_dir: Path | None) -> dict[str, Speaker]:
    """The models by what the page calls them.

    Args:
        wanted: label → experiment, and how its model runs.
        data_dir: where voices come from; its codec must be that of all models.

    Returns:
        Label → model.

    Raises:
        FileNotFoundError: if a file of a model is missing.
        UserError: if a model says no codes, or the codes of the voices are of another codec.
    """
    from espnet_ext.inference.experiment import check_codec

    models = {}
    for label, model in wanted.items():
        models[label] = model.load()
        if data_dir is not None:
            check_codec(model.exp, data_dir, "codes.scp")
    return models


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C.

    Args:
        arguments: command line without the program name; None takes it from the process

    Raises:
        UserError: if gradio is not installed, or an option is impossible
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = get_parser().parse_args(arguments)
    if reason := missing_package({"gradio": "'espnet_ext[demo]'"}):
        raise UserError(f"{reason}, or make install-demo in the sources")
    wanted = find_models(args)  # before the hub is out of reach
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before its import: it asks nobody anything
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="demo") as folder:
        # voices are recorded there; gradio's own place is for every user of the machine to read
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        _serve(args, wanted)


def _serve(args: argparse.Namespace, wanted: Mapping[str, ModelRef]) -> None:
    models = load_models(wanted, args.data_dir)
    codebooks = next(iter(models.values())).corelm.spec.num_codebooks
    from espnet_ext.demo.page import CSS, THEME, build

    offers = {label: offer_of(wanted[label].exp, speak, args.conf_dir) for label, speak in models.items()}
    live = shutil.which("ffmpeg") is not None
    if not live:
        logging.warning("ffmpeg is not installed: speech plays when it is complete, not while it is made")
    texts = read_texts(args.data_dir)
    page = build(offers, read_speakers(args.data_dir, codebooks), live, next(iter(texts), EXAMPLE), texts)
    logging.info("http://%s:%d", HOST, args.port)
    looks = {"theme": THEME, "css": CSS}
    page.queue().launch(
        server_name=HOST, server_port=args.port, share=False, inbrowser=False, show_error=True, quiet=True, **looks
    )


if __name__ == "__main__":
    run(main)
