"""A trained experiment as a Python object: text and speaker prompt in, speech out."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.data.inputs import TextInputs
from espnet_ext.data.preprocess import collate
from espnet_ext.decoding import DecodingStrategy, Generation, Step, generate, generate_stream, plain_step
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.sampling import Sampler, row_generators
from espnet_ext.errors import UserError
from espnet_ext.fast import Acceleration, FastOptions, accelerate
from espnet_ext.fast.graphs import Graphs
from espnet_ext.inference.experiment import Experiment
from espnet_ext.inference.speech import Speech, Timing, decode_speech, read_speech
from espnet_ext.inference.streaming import SpeechChunk, stream_speech
from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.model.primary import Conditions
from espnet_ext.tokenizers.codec import Codec


class CodecLM:
    """A trained codec language model with its codec and tokenizer.

    One that was trained to say semantic units instead of codes has no codec: it makes units and no waveforms.

    >>> speak = CodecLM.from_experiment("exp/codec_lm_small_s1")  # doctest: +SKIP
    >>> speak("two red dogs", prompt="someone.wav").waveform  # doctest: +SKIP
    """

    def __init__(self, corelm: TextCoreLM, codec: Codec | None, args: Namespace, device: str = "cpu") -> None:
        self.corelm, self._codec, self.device = corelm.eval().to(device), codec, device
        inputs = TextInputs(args)
        self.tokenizer, self.prompt_frames = inputs.tokenizer, inputs.prompt_frames
        self.timing = Timing()
        self._step: Step = plain_step

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
            UserError: if config, weights and codec do not fit each other.
        """
        return cls.of(Experiment.read(directory, model_file), device)

    @classmethod
    def of(cls, experiment: Experiment, device: str = "cpu") -> CodecLM:
        """Load an experiment whose config.yaml has been read.

        Args:
            experiment: the experiment.
            device: as for `from_experiment`.

        Returns:
            The model, ready to speak.
        """
        codec = None if experiment.says_units else experiment.load_codec()
        return cls(experiment.load_corelm(TextCoreLM), codec, experiment.args, device)

    def accelerate(self, options: FastOptions, batch_size: int = 1) -> Acceleration:
        """Make it decode faster from now on, see `fast.accelerate`.

        Args:
            options: what may be done.
            batch_size: texts that are spoken at once.

        Returns:
            What was done.

        Raises:
            UserError: if a precision is not possible here.
        """
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
        """What makes waveforms of the codes.

        Raises:
            UserError: if the model says semantic units.
        """
        if self._codec is None:
            raise UserError(
                "a model that says semantic units makes no waveforms: it is the text_to_semantic of a GPST, see "
                "espnet_ext.bin.gpst_inference --mode tts"
            )
        return self._codec

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
            UserError: if it is no audio, empty or not finite.
        """
        samples = read_speech(path, self.codec.spec.sample_rate_hz, "prompt")
        codes, _ = self.codec.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
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
            UserError: if the model lacks a head the strategy needs, a text is empty, a prompt is of another codec, or
                the model makes no waveforms.
        """
        codec, start = self.codec, time.perf_counter()
        generation = self.codes(names, texts, prompts, options)
        between = time.perf_counter()
        speeches, samples = decode_speech(codec, generation)
        self.timing.count(generation, self.corelm.slots, samples, codec.spec.sample_rate_hz)
        self.timing.seconds_lm += between - start
        self.timing.seconds_codec += time.perf_counter() - between
        self.timing.no_eos += sum(not speech.has_eos for speech in speeches)
        return speeches

    def codes(
        self,
        names: Sequence[str],
        texts: Sequence[str],
        prompts: Sequence[NDArray[np.int64] | None],
        options: DecodeOptions,
    ) -> Generation:
        """The codes, or semantic units, of several texts; the arguments are those of `batch`."""
        return generate(*self._request(names, texts, prompts, options))

    def _request(
        self,
        names: Sequence[str],
        texts: Sequence[str],
        prompts: Sequence[NDArray[np.int64] | None],
        options: DecodeOptions,
    ) -> tuple[TextCoreLM, Conditions, DecodingStrategy, Sampler, Tensor, int, Step]:
        """What `generate` is given."""
        strategy = options.strategy_for(self.corelm.heads)
        conditions = self.conditions(names, texts, prompts)
        limit = (conditions.text_lengths * options.maxlenratio).ceil().long().clamp_min(options.min_frames)
        sampler = Sampler(options.sampling_options(), row_generators(options.seed, names, self.device))
        return self.corelm, conditions, strategy, sampler, limit, options.min_frames, self._step

    def conditions(
        self, names: Sequence[str], texts: Sequence[str], prompts: Sequence[NDArray[np.int64] | None]
    ) -> Conditions:
        """What several utterances are generated from.

        Args:
            names: utterance ids, for messages.
            texts: what to say.
            prompts: codes (T, N) of who says it; None for nobody.

        Returns:
            The conditions.

        Raises:
            UserError: naming an utterance whose prompt has codes that there are not.
        """
        codebooks = self.corelm.spec.num_codebooks
        rows = []
        for name, text, prompt in zip(names, texts, prompts, strict=True):
            prompt = np.zeros((0, codebooks), dtype=np.int64) if prompt is None else prompt[: self.prompt_frames]
            try:
                self.corelm.spec.check(torch.from_numpy(prompt))
            except ValueError as error:
                raise UserError(f"prompt of {name}: {error}") from None
            rows.append((name, {"text": np.asarray(self.tokenizer.encode(text)), "prompt": prompt}))
        batch = {name: values.to(self.device) for name, values in collate(rows)[1].items()}
        return self.corelm.conditions(batch["text"], batch["text_lengths"], batch["prompt"], batch["prompt_lengths"])

    def stream(
        self,
        text: str,
        prompt: NDArray[np.int64] | Path | str | None = None,
        options: DecodeOptions | None = None,
        name: str = "utterance",
        chunk_frames: int = 10,
    ) -> Iterator[SpeechChunk]:
        """Speech for one text, piece by piece while it is made; see `stream_speech`.

        Args:
            text: what to say.
            prompt: who says it: an audio file, or codes (T, N).
            options: how to decode.
            name: seeds the draws together with `options.seed`.
            chunk_frames: frames of a piece, at least.

        Returns:
            The pieces; their codes are those of a call with the same arguments.

        Raises:
            UserError: as a call; or if the model delays codebooks.
        """
        codes = self.encode_prompt(prompt) if isinstance(prompt, (str, Path)) else prompt
        request = self._request([name], [text], [codes], options or DecodeOptions())
        return stream_speech(self.codec, generate_stream(*request), chunk_frames)

    def check(self, options: DecodeOptions) -> None:
        """Refuse a strategy that this model's heads do not serve, and temperatures of other codebooks.

        Args:
            options: how to decode.

        Raises:
            UserError: naming the head that is missing, or the option that does not fit.
        """
        options.strategy_for(self.corelm.heads)
        options.sampling_options().check(self.corelm.spec.num_codebooks)
