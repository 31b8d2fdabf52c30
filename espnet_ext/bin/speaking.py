"""The options that commands which speak have in common: model, machine, decoding; nothing is imported that decodes."""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_ext.defaults import NUM_UTTERANCES, PAUSE_SEC, PRECISION_CHOICES, PROMPT_SEC
from espnet_ext.jobs import add_worker_options
from espnet_ext.options import boolean
from espnet_ext.registries import caches, depths, orders, strategies
from espnet_ext.storage.pretrained import voice_name
from espnet_ext.storage.shipped import shipped_config


def add_decode_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command that decodes a corpus, all but the mode."""
    parser.add_argument(
        "--exp",
        type=voice_name,
        required=True,
        metavar="VOICE",
        help="Experiment directory, packed voice (.zip), its address, or a hub's owner/name",
    )
    parser.add_argument("--model_file", help="Weights inside of it; default: the average of the best epochs")
    parser.add_argument("--output_dir", type=Path, required=True)
    add_sampling_options(parser)
    parser.add_argument("--repeat", type=int, default=0, help="Number of the repetition, which is added to the seed")
    parser.add_argument(
        "--keep_config", action="store_true", help="Keep the configuration in --exp, for whoever speaks with it later"
    )
    parser.add_argument("--batch_size", type=int, default=16)
    add_worker_options(parser)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="Where the language model runs")
    parser.add_argument("--num_threads", type=int, default=1, help="Threads of each process")
    add_fast_options(parser)
    parser.add_argument("--log_level", default="INFO")
    # a mode reads some of these; None says that nothing was given
    parser.add_argument("--data_dir", type=Path, help="Data directory with text, or token directory of semantic_tokens")
    parser.add_argument("--prompts", type=Path, help="Table utterance → prompt utterance, instead of --data_dir's")
    parser.add_argument("--prompt_sec", type=float, help=f"Longest prompt; default: {PROMPT_SEC}")
    parser.add_argument("--silence_sec", type=float, help=f"Behind a prompt; default: {PAUSE_SEC}")
    parser.add_argument(
        "--text_to_semantic", type=voice_name, metavar="VOICE", help="The model in front, likewise, for mode tts"
    )
    parser.add_argument(
        "--mode_conf", action="append", default=[], metavar="K=V", help="Option of the mode alone; repeatable"
    )
    parser.add_argument("--num_utterances", type=int, help=f"For mode unconditional; default: {NUM_UTTERANCES}")
    parser.add_argument("--target_wav", help="Audio file of the utterance, instead of --data_dir")
    parser.add_argument("--prompt_wav", help="Audio file of the voice to speak with, instead of --data_dir")
    parser.add_argument("--text", help="What to say, instead of --data_dir")
    parser.add_argument("--language", help="Of all utterances; default: what utt2lang of --data_dir says")


def add_fast_options(parser: argparse.ArgumentParser) -> None:
    """Add what may be done to a model for the sake of speed, see docs/speed.md."""
    parser.add_argument(
        "--precision",
        choices=PRECISION_CHOICES,
        help="Pack the weights: float32 keeps the codes up to rounding, auto is what is fastest; default: not at all",
    )
    parser.add_argument(
        "--native", type=boolean, default=False, help="With --precision: steps in a C++ kernel, on a CPU"
    )
    parser.add_argument("--compile", type=boolean, default=False, help="With --precision: torch.compile")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add what may differ from a decode yaml."""
    parser.add_argument(
        "--inference_config",
        type=lambda given: Path(shipped_config(given)),
        help="Decode yaml, or name of one that comes with the package; default: the one that --exp keeps",
    )
    parser.add_argument("--decoding", help=f"Strategy, overrides the yaml's: one of {list(strategies)}")
    parser.add_argument("--order", help=f"How steps follow each other, overrides the yaml's: one of {list(orders)}")
    parser.add_argument("--depth", help=f"Which layers are used, overrides the yaml's: one of {list(depths)}")
    parser.add_argument("--cache", help=f"How keys and values are kept, overrides the yaml's: one of {list(caches)}")
    parser.add_argument("--seed", type=int, help="Overrides the yaml's")
    parser.add_argument("--retries", type=int, help="Times that a runaway is decoded again; default: 1 for say, else 0")
    parser.add_argument("--end_guard", type=float, help="Seconds behind the text's end after which speech must end")
