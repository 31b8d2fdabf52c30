"""A trained GPST as a Python object: units, recordings or texts in, speech out, in every mode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from espnet_ext.data.joint_preprocess import language_id
from espnet_ext.data.preprocess import collate
from espnet_ext.data.streams import Streams, disagreement
from espnet_ext.decoding import DecodingStrategy, Generation, Step, build_strategy, generate, plain_step
from espnet_ext.decoding.options import UNIT_DECODING, DecodeOptions, GPSTDecodeOptions
from espnet_ext.decoding.sampling import Sampler, row_generators
from espnet_ext.errors import UserError
from espnet_ext.fast import Acceleration, FastOptions, accelerate
from espnet_ext.fast.graphs import Graphs
from espnet_ext.inference.codec_lm import CodecLM
from espnet_ext.inference.experiment import Experiment
from espnet_ext.inference.listener import Listener
from espnet_ext.inference.modes import Clock, Mode, Request, Speller, Spelling, Start, modes
from espnet_ext.inference.speech import Speech, Timing, decode_speech
from espnet_ext.model.core_lm import GPST, JointConditions
from espnet_ext.tokenizers.codec import Codec


class TextToUnits(Protocol):
    """What makes semantic units of texts, a `CodecLM` that was trained on them."""

    def codes(
        self, names: Sequence[str], texts: Sequence[str], prompts: Sequence[None], options: DecodeOptions
    ) -> Generation:
        """Units (B, U, 1) as codes of one codebook."""


class GPSTSpeech:
    """A trained GPST with its codec and semantic tokenizer.

    Args:
        corelm: the model.
        listener: codec and tokenizer.
        deduplicates: whether the model reads units without repetitions.
        text_to_units: for the mode tts; None without.
        device: where the language models run, "cpu" or "cuda"; codec and tokenizer stay on the CPU.

    Attributes:
        silence: both streams of silence, where somebody has them already; None to encode it.
        timing: costs so far.

    >>> gpst = GPSTSpeech.from_experiment("exp/gpst_mini_s1")  # doctest: +SKIP
    >>> gpst.speak("speaker_transfer", speech="what.wav", prompt="who.wav").waveform  # doctest: +SKIP
    """

    def __init__(
        self,
        corelm: GPST,
        listener: Listener,
        deduplicates: bool,
        text_to_units: TextToUnits | None = None,
        device: str = "cpu",
    ) -> None:
        self.corelm, self.listener, self.device = corelm.eval().to(device), listener, device
        self.text_to_units = text_to_units
        self.silence: Streams | None = None
        self.step: Step = plain_step
        self.timing = Timing()
        self.clock = Clock(
            corelm.spec, corelm.semantic, corelm.stacking, deduplicates, lambda: self.silence or listener.silence
        )

    @classmethod
    def from_experiment(
        cls,
        directory: Path | str,
        model_file: str | None = None,
        text_to_semantic: Path | str | None = None,
        device: str = "cpu",
    ) -> GPSTSpeech:
        """Load what training wrote.

        Args:
            directory: an experiment directory: config.yaml, weights, codec and semantic tokenizer.
            model_file: name of the weights inside of it; None for the average of the best epochs.
            text_to_semantic: experiment directory of a text-to-semantic model; None without the mode tts.
            device: where the language models run, "cpu" or "cuda".

        Returns:
            The model, ready to speak.

        Raises:
            FileNotFoundError: naming the file that a half-written experiment lacks.
            UserError: if config, weights, codec and tokenizers do not fit each other.
        """
        experiment = Experiment.read(directory, model_file)
        info, codec = experiment.semantic_info(), experiment.load_codec()
        speller = None
        if text_to_semantic is not None:
            texts = Experiment.read(text_to_semantic)
            texts.check_says(info, experiment.directory)
            speller = CodecLM.of(texts, device)
        listener = Listener(codec, experiment.load_semantic)
        return cls(experiment.load_corelm(GPST), listener, info.deduplicate, speller, device)

    def accelerate(self, options: FastOptions, batch_size: int = 1) -> Acceleration:
        """Make it decode faster from now on, see `fast.accelerate`; the text-to-semantic model stays as it is.

        Args:
            options: what may be done.
            batch_size: utterances that are spoken at once.

        Returns:
            What was done.

        Raises:
            UserError: if a precision is not possible here.
        """
        done = accelerate(self.corelm, options, batch_size)
        self.step = done.step
        return done

    def free_graphs(self) -> None:
        """Let go of the GPU's memory that serves later requests."""
        if isinstance(self.step, Graphs):
            self.step.clear()

    @property
    def codec(self) -> Codec:
        """What makes waveforms of the codes."""
        return self.listener.codec

    def speak(
        self,
        mode: Mode | str,
        speech: Path | str | None = None,
        prompt: Path | str | None = None,
        text: str = "",
        language: str = "",
        options: GPSTDecodeOptions | None = None,
        name: str = "utterance",
    ) -> Speech:
        """One utterance.

        Args:
            mode: a mode, or the name of one.
            speech: audio file of the utterance, for the modes that have one.
            prompt: audio file of the voice, likewise.
            text: what to say, likewise.
            language: its name; empty for one that is not told.
            options: how to decode.
            name: seeds the draws together with `options.seed`.

        Returns:
            The speech.

        Raises:
            UserError: if the model cannot use what is given; the message names it.
        """
        mode = modes[mode]() if isinstance(mode, str) else mode
        options = options or GPSTDecodeOptions()
        self.check_language(language)
        said, voice = (None if path is None else self.listener.hear(path) for path in (speech, prompt))
        return self.batch(mode, [name], [Request(said, voice, text, language)], options)[0]

    def batch(
        self, mode: Mode, names: Sequence[str], requests: Sequence[Request], options: GPSTDecodeOptions
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
            UserError: naming the utterance whose prompt, units, codes or language the model cannot use.
        """
        strategy = self.check(options, mode)
        for name, request in zip(names, requests, strict=True):
            for what, streams in (("speech", request.speech), ("prompt", request.prompt)):
                if streams is not None:
                    self._check_streams(f"{what} of {name}", streams)
        begin = time.perf_counter()
        spellings = mode.spell(_Speller(self, options), names, requests)
        spelt = time.perf_counter()
        starts = [
            mode.start(name, request, spelling.units, self.clock)
            for name, request, spelling in zip(names, requests, spellings, strict=True)
        ]
        conditions = self._conditions(starts, self._languages(names, requests))
        limit = self._limit(names, starts, conditions, options)
        sampler = Sampler(options.sampling_options(), row_generators(options.seed, names, self.device))
        generation = generate(self.corelm, conditions, strategy, sampler, limit, options.min_frames, self.step)
        generated = time.perf_counter()
        generation = replace(
            generation, has_eos=generation.has_eos.cpu() & torch.tensor([spelling.has_eos for spelling in spellings])
        )
        speeches, samples = decode_speech(self.codec, generation)
        speeches = [replace(speech, units=start.units) for speech, start in zip(speeches, starts, strict=True)]
        if mode.continues:
            speeches = [self._whole(start, speech) for start, speech in zip(starts, speeches, strict=True)]
        self.timing.count(generation, self.corelm.slots, samples, self.codec.spec.sample_rate_hz)
        self.timing.no_eos += sum(not speech.has_eos for speech in speeches)
        self.timing.seconds_units += spelt - begin
        self.timing.seconds_lm += generated - spelt
        self.timing.seconds_codec += time.perf_counter() - generated
        return speeches

    def check(self, options: GPSTDecodeOptions, mode: Mode) -> DecodingStrategy:
        """The strategy, if this model can run it and serve the mode.

        Args:
            options: how to decode.
            mode: how utterances are asked for.

        Returns:
            The strategy.

        Raises:
            UserError: naming the head or the model that is missing, or the option that does not fit.
        """
        if mode.source == "text" and self.text_to_units is None:
            raise UserError(
                "text_to_semantic must be the experiment directory of a text-to-semantic model for mode tts, got none"
            )
        options.sampling_options().check(self.corelm.spec.num_codebooks)
        units = options.semantic_options()
        units.check(1, "temperature of semantic_sampling")
        if mode.samples_units and units.guided:
            raise UserError(
                "cfg_scale of semantic_sampling must be 1 where units are sampled without a text, as there is nothing "
                f"to be guided by, got {units.cfg_scale}"
            )
        return options.strategy_for(self.corelm.heads)

    def check_language(self, language: str) -> None:
        """Refuse a language that the model was not trained to be told.

        Args:
            language: its name; empty for one that is not told.

        Raises:
            UserError: naming those there are.
        """
        known = self.corelm.languages
        if language and language not in known:
            allowed = f"one of {list(known)}" if known else "left out with a model that is told no language"
            raise UserError(f"language must be {allowed}, got {language!r}")

    def _check_streams(self, what: str, streams: Streams) -> None:
        spec, semantic = self.corelm.spec, self.corelm.semantic
        for facts, ids, kind in ((semantic, streams.units[:, None], "units"), (spec, streams.codes, "codes")):
            try:
                facts.check(torch.from_numpy(ids))
            except ValueError as error:
                raise UserError(f"{kind} of {what}: {error}") from None
        reason = disagreement(len(streams.units), len(streams.codes), semantic, spec)
        if reason is not None:
            raise UserError(f"units and codes of {what}: {reason}")

    def _languages(self, names: Sequence[str], requests: Sequence[Request]) -> Tensor | None:
        known = self.corelm.languages
        if not known:
            return None
        ids = [language_id(request.language, known, name) for name, request in zip(names, requests, strict=True)]
        return torch.tensor(ids, device=self.device)

    def _conditions(self, starts: Sequence[Start], languages: Tensor | None) -> JointConditions:
        rows = [(str(row), {"units": start.units, "prompt": start.prompt}) for row, start in enumerate(starts)]
        batch = {name: values.to(self.device) for name, values in collate(rows)[1].items()}
        return self.corelm.conditions(
            batch["units"], batch["units_lengths"], batch["prompt"], batch["prompt_lengths"], languages
        )

    def _limit(
        self, names: Sequence[str], starts: Sequence[Start], conditions: JointConditions, options: GPSTDecodeOptions
    ) -> Tensor:
        """Most frames of each row: (B,) int64."""
        room = self.corelm.room(conditions)
        for name, start, frames in zip(names, starts, room.tolist(), strict=True):
            if frames < options.min_frames:
                raise UserError(
                    f"{len(start.prompt)} prompt frames and {len(start.units)} units of {name} must leave room for "
                    f"min_frames = {options.min_frames} frames of the model's context, got {max(frames, 0)}"
                )
        spoken = torch.tensor([start.spoken for start in starts], device=self.device)
        limit = (spoken * options.maxlenratio).ceil().long().clamp_min(options.min_frames)
        return torch.minimum(limit, room)

    def _whole(self, start: Start, speech: Speech) -> Speech:
        codes = torch.from_numpy(np.concatenate((start.prompt, speech.codes)))
        waves, _ = self.codec.decode(codes[None], torch.tensor([len(codes)]))
        return replace(speech, whole=waves[0].numpy())


@dataclass(frozen=True)
class _Speller(Speller):
    """Makes units with a model's semantic stage, or with the text-to-semantic model in front of it."""

    speech: GPSTSpeech
    options: GPSTDecodeOptions

    def sample_units(self, names: Sequence[str], requests: Sequence[Request]) -> list[Spelling]:  # noqa: D102
        model, device = self.speech.corelm, self.speech.device
        languages = self.speech._languages(names, requests)
        nothing, none = torch.zeros(len(names), 0, dtype=torch.int64, device=device), torch.zeros(len(names)).long()
        none = none.to(device)
        codes = torch.zeros(len(names), 0, model.spec.num_codebooks, dtype=torch.int64, device=device)
        steps = model.room(model.conditions(nothing, none, codes, none, languages)) // model.stacking
        # the codes of the shortest speech and their end must fit as well
        room = steps - 1 - -(-self.options.min_frames // model.stacking)
        most = max(int(self.options.max_sec * model.semantic.frame_rate_hz), 1)
        sampler = Sampler(self.options.semantic_options(), self._generators(names))
        strategy, stage = build_strategy(UNIT_DECODING), model.units
        conditions = stage.conditions(nothing, none, languages)
        limit = room.clamp(1, most)
        return self._spellings(generate(stage, conditions, strategy, sampler, limit, step=self.speech.step))

    def units_of_texts(self, names: Sequence[str], requests: Sequence[Request]) -> list[Spelling]:  # noqa: D102
        texts = [request.text for request in requests]
        speller = self.speech.text_to_units
        assert speller is not None, "GPSTSpeech.check"
        return self._spellings(speller.codes(self._names(names), texts, [None] * len(names), self.options.for_texts()))

    def _names(self, names: Sequence[str]) -> list[str]:
        # no utterance id has a space, and what draws units must not draw codes
        return [f"{name} units" for name in names]

    def _generators(self, names: Sequence[str]) -> tuple[torch.Generator, ...]:
        return row_generators(self.options.seed, self._names(names), self.speech.device)

    def _spellings(self, generation: Generation) -> list[Spelling]:
        self.speech.timing.units += int(generation.lengths.sum())
        rows = zip(
            generation.codes[..., 0].cpu(), generation.lengths.tolist(), generation.has_eos.tolist(), strict=True
        )
        return [Spelling(units[:length].numpy(), ended) for units, length, ended in rows]
