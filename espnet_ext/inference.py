"""A trained experiment as a Python object: text and speaker prompt in, speech out."""

from __future__ import annotations

import inspect
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.checkpoint import load_strictly
from espnet_ext.codec import Codec, load_codec, read_codec_info
from espnet_ext.config import read_yaml
from espnet_ext.core_lm import CoreLM
from espnet_ext.decoding import Generation, build_strategy, generate, strategies
from espnet_ext.options import check_number
from espnet_ext.preprocess import collate
from espnet_ext.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.tasks.bpe import bpe_of_experiment
from espnet_ext.tasks.codec_lm import CODEC_DIRECTORY, CodecLMTask, build_tokenizer, prompt_frames


@dataclass(frozen=True)
class DecodeOptions:
    """Everything a decode yaml may say.

    Attributes:
        decoding: name of the strategy.
        decoding_conf: its options.
        sampling: fields of `SamplingOptions`.
        seed: of the draws; an utterance's draws depend on it and the utterance's id alone.
        maxlenratio: most frames per text token.
        min_frames: fewest frames of an utterance, at least 1.
    """

    decoding: str = "local_ar"
    decoding_conf: Mapping[str, object] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    maxlenratio: float = 6.0
    min_frames: int = 4

    def __post_init__(self) -> None:
        for name, kind, what in (
            ("decoding", str, "the name of a strategy"),
            ("decoding_conf", Mapping, "names and values"),
            ("sampling", Mapping, "names and values"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or not all(isinstance(key, str) for key in value):
                raise ValueError(f"{name} must be {what}, got {value!r}")
        check_number("seed", self.seed, whole=True)
        check_number("min_frames", self.min_frames, least=1, whole=True)
        check_number("maxlenratio", self.maxlenratio, above=0)
        build_strategy(self.decoding, **self.decoding_conf)
        self.sampling_options()

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> DecodeOptions:
        """Options from a yaml's content.

        Args:
            options: names and values.

        Returns:
            The options.

        Raises:
            ValueError: if a name is unknown.
        """
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(options) - set(known), key=str)
        if unknown:
            raise ValueError(f"inference_config must have keys among {known}, got {unknown}")
        return cls(**options)

    def sampling_options(self) -> SamplingOptions:
        """The checked sampling options.

        Returns:
            The options.

        Raises:
            ValueError: if a name is unknown or a value out of range.
        """
        known = list(inspect.signature(SamplingOptions).parameters)
        unknown = sorted(set(self.sampling) - set(known), key=str)
        if unknown:
            raise ValueError(f"sampling must have keys among {known}, got {unknown}")
        return SamplingOptions(**self.sampling)  # type: ignore[arg-type]  # the class checks them


@dataclass(frozen=True)
class Speech:
    """One utterance as generated.

    Attributes:
        codes: (T, N) int64.
        waveform: (samples,) float32.
        has_eos: False if it ran into its length limit.
        logprob: sum over its codes.
    """

    codes: NDArray[np.int64]
    waveform: NDArray[np.float32]
    has_eos: bool
    logprob: float


@dataclass
class Timing:
    """Costs, added up over batches.

    Attributes:
        utterances: rows generated.
        frames: codec frames.
        steps: steps of the primary transformer, of all rows.
        slots: codes that these steps hold.
        local_passes: passes of the local head, of all rows.
        seconds_lm: wall time in the language model.
        seconds_codec: wall time in the codec.
        seconds_audio: length of the speech.
        no_eos: rows that ran into their limit.
    """

    utterances: int = 0
    frames: int = 0
    steps: int = 0
    slots: int = 0
    local_passes: int = 0
    seconds_lm: float = 0.0
    seconds_codec: float = 0.0
    seconds_audio: float = 0.0
    no_eos: int = 0

    @property
    def rtf(self) -> float:
        """Seconds of work per second of speech."""
        return (self.seconds_lm + self.seconds_codec) / max(self.seconds_audio, 1e-9)

    def rates(self) -> dict[str, float]:
        """What `timing.json` reports besides the sums.

        Returns:
            Real-time factor, speed of the language model, and how the local head's passes were spent; a pass fills
            `codes_per_pass` slots, for `local_speculative` those it accepts and the one it corrects.
        """
        return {
            "rtf": self.rtf,
            "frames_per_second": self.frames / max(self.seconds_lm, 1e-9),
            "local_passes_per_frame": self.local_passes / max(self.frames, 1),
            "local_passes_per_step": self.local_passes / max(self.steps, 1),
            "codes_per_pass": self.slots / max(self.local_passes, 1),
        }


def averaged_model_file(config: Mapping[str, Any]) -> str:
    """The name ESPnet gives to the average of the best epochs, by the first criterion: "valid.loss.ave.pth".

    Args:
        config: content of a config.yaml.

    Returns:
        The file's name.

    Raises:
        ValueError: if the criterion is not a phase, a statistic and a direction.
    """
    criterion = config.get("best_model_criterion")
    try:
        phase, statistic, _ = criterion[0]  # type: ignore[index]  # whatever is in the file
    except (TypeError, IndexError, KeyError, ValueError):
        raise ValueError(f"best_model_criterion must be a list of three words each, got {criterion}") from None
    return f"{phase}.{statistic}.ave.pth"


class CodecLM:
    """A trained codec language model with its codec and tokenizer.

    >>> speak = CodecLM.from_experiment("exp/codec_lm_small_s1")  # doctest: +SKIP
    >>> speak("two red dogs", prompt="someone.wav").waveform  # doctest: +SKIP
    """

    def __init__(self, corelm: CoreLM, codec: Codec, args: Namespace, device: str = "cpu") -> None:
        self.corelm, self.codec, self.device = corelm.eval().to(device), codec, device
        self.tokenizer = build_tokenizer(args)
        self.prompt_frames = prompt_frames(args, corelm.spec)
        self.timing = Timing()

    @classmethod
    def from_experiment(cls, directory: Path | str, model_file: str | None = None, device: str = "cpu") -> CodecLM:
        """Load what training wrote.

        Args:
            directory: an experiment directory: config.yaml, weights, codec.
            model_file: name of the weights inside of it; None for the average that config.yaml's first
                `best_model_criterion` chose.
            device: where the language model runs, "cpu" or "cuda"; the codec stays on the CPU.

        Returns:
            The model, ready to speak.

        Raises:
            FileNotFoundError: naming the file that a half-written experiment lacks.
            ValueError: if config, weights and codec do not fit each other.
        """
        directory = Path(directory)
        config = directory / "config.yaml"
        content = read_yaml(config, "config.yaml")
        if not isinstance(content.get("codec_info"), dict):
            raise ValueError(f"{config} must be a config.yaml written by codec_lm_train")
        args = Namespace(**{**content, "bpemodel": bpe_of_experiment(directory, content.get("bpemodel"))})
        codec_directory = directory / CODEC_DIRECTORY
        fingerprint = read_codec_info(codec_directory).fingerprint
        if fingerprint != args.codec_info["fingerprint"]:
            raise ValueError(
                f"{codec_directory} must hold codec {args.codec_info['fingerprint'][:12]}…, got {fingerprint[:12]}…"
            )
        model = CodecLMTask.build_model(args)
        load_strictly(model, directory / (model_file or averaged_model_file(content)))
        return cls(model.corelm, load_codec(codec_directory), args, device)

    def __call__(
        self,
        text: str,
        prompt: NDArray[np.int64] | Path | str | None = None,
        options: DecodeOptions | None = None,
        name: str = "utterance",
    ) -> Speech:
        """Speech for one text.

        Args:
            text: what to say.
            prompt: who says it: an audio file, or codes (T, N).
            options: how to decode.
            name: seeds the draws together with `options.seed`.

        Returns:
            The speech.
        """
        codes = self.encode_prompt(prompt) if isinstance(prompt, (str, Path)) else prompt
        return self.batch([name], [text], [codes], options or DecodeOptions())[0]

    def encode_prompt(self, path: Path | str) -> NDArray[np.int64]:
        """Codes (T, N) of an audio file, resampled to the codec's rate.

        Args:
            path: audio file.

        Returns:
            The codes.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no audio, empty or not finite.
        """
        from espnet_ext.scoring.waveform import read_resampled

        if not Path(path).is_file():
            raise FileNotFoundError(f"prompt not found: {path}")
        try:
            mono = read_resampled(Path(path), self.codec.spec.sample_rate_hz)
        except ValueError as error:
            raise ValueError(f"prompt must be an audio file, got {error}") from None
        if not len(mono):
            raise ValueError(f"prompt must last at least one sample of the codec, got {path}")
        codes, _ = self.codec.encode(torch.from_numpy(mono)[None], torch.tensor([len(mono)]))
        return codes[0].numpy()

    def batch(
        self,
        names: Sequence[str],
        texts: Sequence[str],
        prompts: Sequence[NDArray[np.int64] | None],
        options: DecodeOptions,
    ) -> list[Speech]:
        """Speech for several texts at once; every row comes out as if it were alone.

        Args:
            names: utterance ids; an id and the seed determine the draws.
            texts: what to say.
            prompts: codes (T, N) of each row's prompt, or None.
            options: how to decode.

        Returns:
            One speech per row.

        Raises:
            ValueError: if the model lacks a head the strategy needs, a text is empty, or a prompt is of another codec.
        """
        self.check(options)
        codebooks = self.corelm.spec.num_codebooks
        rows = []
        for name, text, prompt in zip(names, texts, prompts, strict=True):
            prompt = np.zeros((0, codebooks), dtype=np.int64) if prompt is None else prompt[: self.prompt_frames]
            try:
                self.corelm.spec.check(torch.from_numpy(prompt))
            except ValueError as error:
                raise ValueError(f"prompt of {name}: {error}") from None
            rows.append((name, {"text": np.asarray(self.tokenizer.encode(text)), "prompt": prompt}))
        batch = {name: values.to(self.device) for name, values in collate(rows)[1].items()}
        start = time.perf_counter()
        generation = self._generate(names, batch, options)
        between = time.perf_counter()
        codes, lengths = generation.codes.cpu(), generation.lengths.cpu()
        waveforms, samples = self.codec.decode(codes, lengths)
        self.timing.seconds_lm += between - start
        self.timing.seconds_codec += time.perf_counter() - between
        self._count(generation, samples)
        return [
            Speech(
                codes[row, : int(lengths[row])].numpy(),
                waveforms[row, : int(samples[row])].numpy(),
                bool(generation.has_eos[row]),
                float(generation.logprobs[row]),
            )
            for row in range(len(names))
        ]

    def check(self, options: DecodeOptions) -> None:
        """Refuse a strategy that this model's heads do not serve.

        Args:
            options: how to decode.

        Raises:
            ValueError: naming the head that is missing, or the option that does not fit.
        """
        self._check_heads(options.decoding)
        build_strategy(options.decoding, **options.decoding_conf).check(self.corelm.heads)

    def _check_heads(self, decoding: str) -> None:
        heads = self.corelm.heads
        possible = [
            name
            for name in strategies
            if all(any(isinstance(head, kind) for head in heads.values()) for kind in strategies[name].head_types)
        ]
        if decoding not in possible:
            needed = ", ".join(kind.__name__ for kind in strategies[decoding].head_types)
            allowed = f"one of {possible} with this model's heads {list(heads)}"
            raise ValueError(f"decoding must be {allowed}, got {decoding!r}, which needs {needed}")

    def _generate(self, names: Sequence[str], batch: Mapping[str, Tensor], options: DecodeOptions) -> Generation:
        conditions = self.corelm.conditions(
            batch["text"], batch["text_lengths"], batch["prompt"], batch["prompt_lengths"]
        )
        limit = (batch["text_lengths"] * options.maxlenratio).ceil().long().clamp_min(options.min_frames)
        return generate(
            self.corelm,
            conditions,
            build_strategy(options.decoding, **options.decoding_conf),
            Sampler(options.sampling_options(), row_generators(options.seed, names)),
            limit,
            options.min_frames,
        )

    def _count(self, generation: Generation, samples: Tensor) -> None:
        self.timing.utterances += len(samples)
        self.timing.frames += int(generation.lengths.sum())
        self.timing.steps += int(generation.steps.sum())
        self.timing.slots += int(generation.steps.sum()) * self.corelm.slots
        self.timing.local_passes += int(generation.local_passes.sum())
        self.timing.seconds_audio += float(samples.sum()) / self.codec.spec.sample_rate_hz
        self.timing.no_eos += int((~generation.has_eos).sum())
