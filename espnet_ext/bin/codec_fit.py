"""Stage 4, codec: make the codec of a corpus, learned from it or loaded, and write codec_info.yaml and the weights."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from espnet_ext.bin import run
from espnet_ext.data.audio import read_wav
from espnet_ext.data.datadir import read_scp, skipped_summary, write_skipped
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record
from espnet_ext.jobs.workers import add_force_option
from espnet_ext.registries import codecs
from espnet_ext.storage.yaml_files import add_pair, read_yaml, without_paths


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", type=Path, help="yaml file of options; the command line overrides it")
    parser.add_argument("--codec", default="world_vq", help=f"one of {list(codecs)}")
    parser.add_argument(
        "--codec_conf",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="repeatable; KEY.NAME=VALUE for parts of KEY",
    )
    parser.add_argument("--wav_scp", type=Path, help="audio to learn from")
    parser.add_argument("--out", type=Path, help="directory for codec_info.yaml and the weights")
    parser.add_argument("--max_minutes", type=float, default=15.0, help="learn from a random part of this length")
    parser.add_argument("--seed", type=int, default=0, help="of the random part and of learning")
    parser.add_argument(
        "--check_rate", type=int, metavar="HZ", help="write nothing: only check that there is such a codec of this rate"
    )
    add_force_option(parser)
    return parser


def parse_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, conf_option: str
) -> argparse.Namespace:
    """The options, those of `--config` included; the repeatable KEY=VALUE option becomes a dict.

    Args:
        parser: of the command
        arguments: command line without the program name; None takes it from the process
        conf_option: name of the KEY=VALUE option

    Returns:
        The options.

    Raises:
        UserError: if the yaml file has an unknown option, or a KEY=VALUE has no "="
    """
    config = parser.parse_known_args(arguments)[0].config
    conf: dict[str, Any] = {}
    if config is not None:
        content = read_yaml(config, "config")
        known = sorted({action.dest for action in parser._actions} - {"config", "help"})
        for key, value in content.items():
            if key not in known:
                raise UserError(f"{config} must have options among {known}, got {key!r}")
            if key == conf_option:
                if not isinstance(value, dict):
                    raise UserError(f"{conf_option} in {config} must hold names and values, got {value!r}")
                conf.update(value)
            else:
                parser.set_defaults(**{key: str(value)})  # argparse converts a default that is a string
    args = parser.parse_args(arguments)
    for pair in getattr(args, conf_option):
        add_pair(conf, pair, conf_option)
    setattr(args, conf_option, conf)
    return args


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked.

    Args:
        arguments: command line without the program name; None takes it from the process

    Returns:
        The options.

    Raises:
        UserError: if an option is unknown, missing or impossible
    """
    args = parse_options(get_parser(), arguments, "codec_conf")
    if not args.max_minutes > 0:  # NaN is not
        raise UserError(f"max_minutes must be positive, got {args.max_minutes:g}")
    if args.check_rate is not None:
        return args
    if args.out is None:
        raise UserError("--out must be given")
    if args.wav_scp is None and codecs[args.codec].learns:
        raise UserError(f"--wav_scp must be given: codec {args.codec} learns from audio")
    return args


def choose_utterances(wavs: dict[str, str], max_minutes: float, seed: int) -> tuple[list[str], dict[str, str]]:
    """A random part of a corpus, in C-locale order, and those passed over because their audio is unreadable.

    Args:
        wavs: utterance → audio file
        max_minutes: stop when this much is chosen
        seed: of the choice

    Returns:
        Utterances, and skipped utterance → reason.
    """
    chosen, skipped, seconds = [], {}, 0.0
    for index in np.random.default_rng(seed).permutation(len(wavs)):
        utterance = list(wavs)[index]
        if seconds >= 60 * max_minutes:
            break
        try:
            seconds += soundfile.info(wavs[utterance]).duration
            chosen.append(utterance)
        except (soundfile.LibsndfileError, OSError) as error:
            skipped[utterance] = f"unreadable wav: {error}"
    return sorted(chosen), skipped


def read_waveforms(
    wavs: Mapping[str, str], utterances: Iterable[str], read: Callable[[str], np.ndarray], skipped: dict[str, str]
) -> Iterator[np.ndarray]:
    """Samples of the utterances, (samples,) float32 each, with a progress bar.

    Args:
        wavs: utterance → audio file
        utterances: which ones, in the order in which they are read
        read: samples of a file
        skipped: gets the reason for every utterance that cannot be used

    Yields:
        One array per usable utterance.
    """
    for utterance in tqdm(utterances, desc="learn", unit="utt", mininterval=1.0):
        try:
            yield read(wavs[utterance])
        except UserError as error:
            skipped[utterance] = str(error)


def first_rate(wavs: Mapping[str, str]) -> tuple[int, str]:
    """Sample rate of the first readable file, which the others must have too, and the file; 0 if there is none."""
    for wav in wavs.values():
        try:
            return int(soundfile.info(wav).samplerate), wav
        except (soundfile.LibsndfileError, OSError):
            continue
    return 0, ""


def check_rate(wavs: Mapping[str, str], sample_rate_hz: int, name: str) -> None:
    """Refuse a corpus of another sample rate now, rather than one file after the other when it is coded.

    Args:
        wavs: utterance → audio file
        sample_rate_hz: that of the codec
        name: of the codec

    Raises:
        UserError: if it is another
    """
    found, wav = first_rate(wavs)
    if found not in (0, sample_rate_hz):
        raise UserError(f"audio for codec {name} must have {sample_rate_hz} Hz, got {found} in {wav} (option fs)")


def check_codec(name: str, conf: Mapping[str, Any], seed: int, sample_rate_hz: int) -> None:
    """Refuse, before anything else is made, a codec that cannot be made, as far as that can be known.

    Args:
        name: registered name
        conf: its options; published weights are downloaded, other weights read
        seed: of random weights
        sample_rate_hz: rate of the audio that it is for

    Raises:
        UserError: if an option is wrong, a package is missing, or the rate is another
        OSError: if weights cannot be read or downloaded
    """
    from espnet_ext.tokenizers.codec import create_codec

    kind = codecs[name]
    found = kind.sample_rate_hz if kind.learns else create_codec(name, (), seed, conf).spec.sample_rate_hz
    if found != sample_rate_hz:
        raise UserError(f"fs must be {found}, the rate of codec {name}, got {sample_rate_hz}")


def named_files(conf: Mapping[str, Any]) -> list[Path]:
    """The files that options name, and the weights and configurations in the folders that they name."""
    paths = [Path(value) for value in conf.values() if isinstance(value, str) and value]
    kinds = ("config.*", "*.safetensors", "*.bin", "*.best.pth", "*.tflite")  # as in local/shared_stages.sh
    inside = [path for folder in paths if folder.is_dir() for kind in kinds for path in sorted(folder.glob(kind))]
    return [path for path in [*paths, *inside] if path.is_file()]


def fit(args: argparse.Namespace, wavs: dict[str, str], origin: dict[str, object]) -> None:
    """Make the codec.

    Args:
        args: the options
        wavs: utterance → audio file to learn from; empty for a codec that does not learn
        origin: how it is made, for the reader of codec_info.yaml
    """
    from espnet_ext.tokenizers.codec import INFO_NAME, create_codec, save_codec

    kind = codecs[args.codec]
    chosen, skipped = choose_utterances(wavs, args.max_minutes, args.seed)
    waveforms = read_waveforms(wavs, chosen, lambda wav: read_wav(wav, kind.sample_rate_hz), skipped)
    codec = create_codec(args.codec, waveforms, args.seed, args.codec_conf)
    if args.wav_scp is not None and not kind.learns:
        check_rate(read_scp(args.wav_scp), codec.spec.sample_rate_hz, args.codec)
    write_skipped(args.out / "skipped", skipped)
    info = save_codec(codec, args.codec, args.out, without_paths(origin))
    if kind.learns:
        logging.info("learned from %d of %d utterances; skipped: %s", len(chosen), len(wavs), skipped_summary(skipped))
    logging.info("%s: %s, fingerprint %s", args.out / INFO_NAME, info.spec, info.fingerprint[:12])


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the codec; one that was made earlier by the same request is kept.

    Args:
        arguments: command line without the program name; None takes it from the process
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = parse_args(arguments)

    from espnet_ext.tokenizers.codec import INFO_NAME, codec_files

    codec_files.check_conf(args.codec, args.codec_conf)
    if args.check_rate is not None:
        check_codec(args.codec, args.codec_conf, args.seed, args.check_rate)
        return
    kind = codecs[args.codec]
    origin: dict[str, object] = {"codec_conf": args.codec_conf, "seed": args.seed}
    inputs = named_files(args.codec_conf)  # weights that were trained further under the same name make another codec
    wavs: dict[str, str] = {}
    if kind.learns:
        wavs = read_scp(args.wav_scp)
        origin["max_minutes"] = args.max_minutes
        inputs.append(args.wav_scp)
    record = Record.of(args.out, {"codec": args.codec, **origin}, inputs)
    made = [args.out / INFO_NAME, args.out / kind.weights_name]
    record.make(lambda: fit(args, wavs, origin), args.force, made)


if __name__ == "__main__":
    run(main)
