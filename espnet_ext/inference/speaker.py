"""A trained experiment as a Python object: texts, units or recordings in, speech out, whatever its core LM."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.data.streams import Streams
from espnet_ext.decoding import DecodingStrategy, Generation, Step, generate, generate_stream, plain_step
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.sampling import Sampler, row_generators
from espnet_ext.errors import UserError
from espnet_ext.fast import Acceleration, FastOptions, accelerate
from espnet_ext.fast.graphs import Graphs
from espnet_ext.inference.experiment import Experiment
from espnet_ext.inference.listener import NO_UNITS, Listener
from espnet_ext.inference.requests import Mode, Request, Start, default_mode, modes, modes_of, name_of
from espnet_ext.inference.speech import Speech, Timing, decode_speech
from espnet_ext.inference.streaming import SpeechChunk, stream_speech
from espnet_ext.model.core_lm import CoreLM, StepModel
from espnet_ext.tokenizers.codec import Codec
from espnet_ext.tokenizers.semantic import SemanticTokenizer
from espnet_ext.tokenizers.text.tokens import TextTokenizer

Sound = Path | str | NDArray[np.int64]  # an audio file, or its codes (T, N)
Decoding = tuple[StepModel, Any, DecodingStrategy, Sampler, Tensor, int, Step]  # what `generate` is given


class Speaker:
    """A trained core LM with its codec and tokenizers.

    One that was trained to say semantic units instead of codes has no codec: it makes units and no waveforms.

    Args:
        corelm: the model.
        codec: what makes waveforms of its codes; None for a model that says units.
        inputs: what it reads, see `data.inputs`.
        semantic: loads the semantic tokenizer; None for a model that reads no units.
        text_to_units: the text-to-semantic model in front of it; None for none.
        device: where the language models run, "cpu" or "cuda"; codec and tokenizers stay on the CPU.

    Attributes:
        silence: both streams of silence, where somebody has them already; None to encode it.

    >>> speak = Speaker.from_experiment("exp/codec_lm_small_s1")  # doctest: +SKIP
    >>> speak("two red dogs", prompt="someone.wav").waveform  # doctest: +SKIP
    >>> gpst = Speaker.from_experiment("exp/gpst_mini_s1")  # doctest: +SKIP
    >>> gpst.speak("speaker_transfer", speech="what.wav", prompt="who.wav").waveform  # doctest: +SKIP
    """

    kind: ClassVar[str] = ""  # the one core LM that it may be of; empty for any

    def __init__(
        self,
        corelm: CoreLM,
        codec: Codec | None,
        inputs: Any,
        semantic: Callable[[], SemanticTokenizer] | None = None,
        text_to_units: Speaker | None = None,
        device: str = "cpu",
    ) -> None:
        self.corelm: Any = corelm.eval().to(device)  # what a mode asks of it beyond a CoreLM is the mode's business
        self._codec, self.inputs, self._semantic, self.device = codec, inputs, semantic, device
        self.text_to_units = text_to_units
        self.silence: Streams | None = None
        self._step: Step = plain_step

    @classmethod
    def from_experiment(
        cls,
        directory: Path | str,
        model_file: str | None = None,
        text_to_semantic: Path | str | None = None,
        device: str = "cpu",
    ) -> Self:
        """Load what training wrote.

        Args:
            directory: an experiment directory: config.yaml, weights, codec and semantic tokenizer.
            model_file: name of the weights inside of it; None for the average that config.yaml's first
                `best_model_criterion` chose.
            text_to_semantic: experiment directory of a text-to-semantic model; None without the mode tts.
            device: where the language models run, "cpu" or "cuda"; codec and tokenizers stay on the CPU.

        Returns:
            The model, ready to speak.

        Raises:
            FileNotFoundError: naming the file that a half-written experiment lacks.
            UserError: if config, weights, codec and tokenizers do not fit each other.
        """
        experiment, texts = Experiment.read(directory, model_file), None
        if cls.kind not in ("", experiment.args.corelm):
            raise UserError(
                f"exp must be an experiment of corelm {cls.kind}, got {directory} of {experiment.args.corelm}"
            )
        if text_to_semantic is not None:
            front = Experiment.read(text_to_semantic)
            front.check_says(experiment.semantic_info(), experiment.directory)
            texts = Speaker(front.load_corelm(), None, front.inputs, device=device)
        semantic = None
        if getattr(experiment.args, "semantic_info", None) is not None:
            experiment.semantic_info()  # another tokenizer than that of the training is refused
            semantic = experiment.load_semantic
        codec = None if experiment.says_units else experiment.load_codec()
        return cls(experiment.load_corelm(), codec, experiment.inputs, semantic, texts, device)

    @property
    def tokenizer(self) -> TextTokenizer:
        """What makes ids of texts."""
        tokenizer: TextTokenizer = self.inputs.tokenizer
        return tokenizer

    @cached_property
    def listener(self) -> Listener:
        """What hears recordings."""
        return Listener(self.codec, self._semantic)

    def accelerate(self, options: FastOptions, batch_size: int = 1) -> Acceleration:
        """Make it decode faster from now on, see `fast.accelerate`; the text-to-semantic model stays as it is."""
        done = accelerate(self.corelm, options, batch_size)
        self._step = done.step
        return done

    def free_graphs(self) -> None:
        """Let go of the GPU's memory that serves later requests."""
        if isinstance(self._step, Graphs):
            self._step.clear()

    @property
    def says_codes(self) -> bool:
        """Whether it makes waveforms; otherwise its codes are semantic units."""
        return self._codec is not None

    @property
    def codec(self) -> Codec:
        """What makes waveforms of the codes; a UserError if the model says semantic units."""
        if self._codec is None:
            raise UserError(
                "a model that says semantic units makes no waveforms: it is the text_to_semantic of a GPST, see "
                "espnet_ext.bin.gpst_inference --mode tts"
            )
        return self._codec

    def text_mode(self, prompted: bool) -> Mode:
        """How the model is asked to say a text, with a recording of the voice to speak with or without."""
        corelm = type(self.corelm)
        names = [name for name in (default_mode(corelm), *modes_of(corelm)) if name and modes[name].source == "text"]
        if not names:
            raise UserError(f"mode must be one of {modes_of(corelm)}: this core LM reads no text")
        kind: Any = modes[names[0]]
        return kind(prompt_sec=0) if kind().prompted and not prompted else kind()

    def check(self, options: DecodeOptions, mode: Mode | None = None) -> None:
        """Refuse what this model cannot do.

        Args:
            options: how to decode.
            mode: how utterances are asked for; None to leave that open.

        Raises:
            UserError: naming the mode, head or model that is missing, or the option that does not fit.
        """
        if mode is not None:
            own = modes_of(type(self.corelm))
            if name_of(mode) not in own:
                raise UserError(f"mode must be one of {own} with this core LM, got {name_of(mode)!r}")
            mode.check(self, options)
        options.check(self.corelm.heads, self.corelm.spec.num_codebooks)

    def check_language(self, language: str) -> None:
        """Refuse a language, if one is named, that the model was not trained to be told, with those there are."""
        known = getattr(self.corelm, "languages", ())
        if language and language not in known:
            allowed = f"one of {list(known)}" if known else "left out with a model that is told no language"
            raise UserError(f"language must be {allowed}, got {language!r}")

    def __call__(
        self, text: str, prompt: Sound | None = None, options: DecodeOptions | None = None, name: str = "utterance"
    ) -> Speech:
        """Speech for one text; the arguments are those of `speak`."""
        return self.speak(self.text_mode(prompt is not None), prompt=prompt, text=text, options=options, name=name)

    def speak(
        self,
        mode: Mode | str,
        speech: Path | str | None = None,
        prompt: Sound | None = None,
        text: str = "",
        language: str = "",
        options: DecodeOptions | None = None,
        name: str = "utterance",
        further: Mapping[str, Any] | None = None,
    ) -> Speech:
        """One utterance.

        Args:
            mode: a mode, or the name of one.
            speech: audio file of the utterance, for the modes that have one.
            prompt: who says it: an audio file, of which the stretch with the most voice is used, or codes (T, N) for a
                model that reads text, the first ones.
            text: what to say, likewise.
            language: its name; empty for one that is not told.
            options: how to decode.
            name: seeds the draws together with `options.seed`.
            further: what else a mode of another package needs.

        Returns:
            The speech.

        Raises:
            UserError: if the model cannot use what is given; the message names it.
        """
        mode = modes[mode]() if isinstance(mode, str) else mode
        self.check_language(language)
        request = self._request(mode, prompt, text)
        said = None if speech is None else self.listener.hear(speech, "speech")
        request = replace(request, speech=said, language=language, further=further or {})
        return self.speak_all(mode, [name], [request], options or mode.options())[0]

    def speak_all(
        self, mode: Mode, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> list[Speech]:
        """Several utterances at once; every row comes out as if it were alone.

        Args:
            mode: how they are asked for.
            names: utterance ids; an id and the seed determine the draws.
            requests: what is known of each.
            options: how to decode.

        Returns:
            One speech per row.

        Raises:
            UserError: if the model cannot be decoded so, or naming the utterance whose prompt, units, codes or language
                it cannot use.
        """
        codec, begin = self.codec, time.perf_counter()
        starts, spelt, decoding = self._prepare(mode, names, requests, options)
        generation = generate(*decoding)
        generated = time.perf_counter()
        ends = generation.has_eos.cpu() & torch.tensor([start.has_eos for start in starts])
        speeches, samples = decode_speech(codec, replace(generation, has_eos=ends))
        timing = Timing.of(generation, self.corelm.slots, samples, codec.spec.sample_rate_hz)
        timing.no_eos, timing.units = int((~ends).sum()), sum(start.generated for start in starts)
        timing.seconds_units = spelt - begin if timing.units else 0.0
        timing.seconds_lm = generated - begin - timing.seconds_units
        wholes = [
            self._whole(start, speech) if mode.continues else None
            for start, speech in zip(starts, speeches, strict=True)
        ]
        timing.seconds_codec = time.perf_counter() - generated
        reads_units = self.corelm.reads == "semantic"
        prompts = [mode.prompt_seconds(self, request) for request in requests]
        return [
            replace(
                speech, units=start.units if reads_units else None, whole=whole, timing=timing,
                prompt_sec=seconds, prompt_used_sec=used,
            )
            for speech, start, whole, (seconds, used) in zip(speeches, starts, wholes, prompts, strict=True)
        ]  # fmt: skip

    def codes(
        self,
        names: Sequence[str],
        texts: Sequence[str],
        prompts: Sequence[NDArray[np.int64] | None],
        options: DecodeOptions,
    ) -> Generation:
        """The codes, or semantic units, of several texts.

        Args:
            names: utterance ids; an id and the seed determine the draws.
            texts: what to say.
            prompts: codes (T, N) of each row's prompt, or None.
            options: how to decode.

        Returns:
            The codes.
        """
        mode, requests = self.text_requests(texts, prompts)
        return generate(*self._prepare(mode, names, requests, options)[-1])

    def stream(
        self,
        text: str,
        prompt: Sound | None = None,
        options: DecodeOptions | None = None,
        name: str = "utterance",
        chunk_frames: int = 10,
    ) -> Iterator[SpeechChunk]:
        """Speech for one text, piece by piece while it is made; see `stream_speech`.

        Args:
            text: what to say.
            prompt: who says it, see `speak`.
            options: how to decode.
            name: seeds the draws together with `options.seed`.
            chunk_frames: frames of a piece, at least.

        Returns:
            The pieces; their codes are those of a call with the same arguments.

        Raises:
            UserError: as a call; or if the model delays codebooks.
        """
        mode = self.text_mode(prompt is not None)
        request = self._request(mode, prompt, text)
        *_, decoding = self._prepare(mode, [name], [request], options or mode.options())
        chunks = stream_speech(self.codec, generate_stream(*decoding), chunk_frames)
        whole, used = mode.prompt_seconds(self, request)
        return (replace(chunk, prompt_sec=whole, prompt_used_sec=used) for chunk in chunks)

    def decoding(
        self, model: StepModel, conditions: Any, options: DecodeOptions, names: Sequence[str], limit: Tensor
    ) -> Decoding:
        """What `generate` is given for a core LM or a stage of it: rows with these names, most frames `limit` (B,)."""
        sampler = Sampler(options.sampler, row_generators(options.seed, names, self.device))
        return model, conditions, options.strategy, sampler, limit, options.min_frames, self._step

    def _prepare(
        self, mode: Mode, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> tuple[list[Start], float, Decoding]:
        """What codes are generated behind, when that was known, and what `generate` is given."""
        self.check(options, mode)
        starts = mode.starts(self, names, requests, options)
        spelt = time.perf_counter()
        conditions = mode.conditions(self, names, requests, starts)
        limit = mode.limits(self, names, starts, conditions, options)
        return starts, spelt, self.decoding(self.corelm, conditions, options, names, limit)

    def _request(self, mode: Mode, prompt: Sound | None, text: str) -> Request:
        if isinstance(prompt, (Path, str)):
            voice = self.listener.hear_prompt(prompt, mode.prompt_frames(self))
            return Request(prompt=voice.streams, text=text, prompt_sec=voice.seconds)
        return Request(prompt=None if prompt is None else Streams(NO_UNITS, prompt), text=text)

    def text_requests(
        self, texts: Sequence[str], prompts: Sequence[NDArray[np.int64] | None]
    ) -> tuple[Mode, list[Request]]:
        """How the model is asked to say texts; the arguments are those of `codes`."""
        mode = self.text_mode(any(prompt is not None for prompt in prompts))
        return mode, [self._request(mode, prompt, text) for text, prompt in zip(texts, prompts, strict=True)]

    def _whole(self, start: Start, speech: Speech) -> NDArray[np.float32]:
        codes = torch.from_numpy(np.concatenate((start.prompt, speech.codes)))
        waves, _ = self.codec.decode(codes[None], torch.tensor([len(codes)]))
        samples: NDArray[np.float32] = waves[0].numpy()
        return samples
