"""A trained experiment that speaks: texts, units or recordings in, speech out, whatever its core LM."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.data.streams import Streams
from espnet_ext.decoding import Generation, generate_stream
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.request import Decoding
from espnet_ext.decoding.retry import generate_with_retries
from espnet_ext.decoding.sampling import Sampler, row_generators
from espnet_ext.errors import UserError
from espnet_ext.inference.listener import NO_UNITS
from espnet_ext.inference.long_text import join_speech, join_streams, parts_of
from espnet_ext.inference.requests import Mode, Request, Start
from espnet_ext.inference.sounds import Sound, own_codes
from espnet_ext.inference.speech import Speech, Timing, cut_off, decode_speech, total
from espnet_ext.inference.streaming import SpeechChunk, stream_speech
from espnet_ext.inference.trained import Trained
from espnet_ext.inference.words import spoken_words
from espnet_ext.model.core_lm import StepModel
from espnet_ext.registries import modes

PARTS_AT_ONCE = 16  # of long texts, at least; more if more texts are said at once
LISTENED_TO = 1  # retries where somebody waits for the speech


class Speaker(Trained):
    """A trained core LM that speaks.

    >>> speak = Speaker.from_experiment("exp/codec_lm_small_s1")  # doctest: +SKIP
    >>> speak("two red dogs", prompt="someone.wav").save("dogs.wav")  # doctest: +SKIP
    >>> gpst = Speaker.from_experiment("exp/gpst_mini_s1")  # doctest: +SKIP
    >>> gpst.speak("speaker_transfer", speech="what.wav", prompt="who.wav").save("other.wav")  # doctest: +SKIP
    """

    def __call__(
        self,
        text: str,
        prompt: Sound | None = None,
        options: DecodeOptions | None = None,
        name: str = "utterance",
        rate: int | None = None,
        **changes: Any,
    ) -> Speech:
        """Speech for one text; the arguments are those of `speak`."""
        mode = self.text_mode(prompt is not None)
        return self.speak(mode, prompt=prompt, text=text, options=options, name=name, rate=rate, **changes)

    def speak(
        self,
        mode: Mode | str,
        speech: Sound | None = None,
        prompt: Sound | None = None,
        text: str = "",
        language: str = "",
        options: DecodeOptions | None = None,
        name: str = "utterance",
        further: Mapping[str, Any] | None = None,
        rate: int | None = None,
        **changes: Any,
    ) -> Speech:
        """One utterance; a text that is longer than any of the training is said in parts.

        Args:
            mode: a mode, or the name of one.
            speech: recording of the utterance, for the modes that have one; or its codes, for a model that reads text.
            prompt: who says it: a recording, of which the stretch with the most voice is used, or codes (T, N) for a
                model that reads text, the first ones, or speech that was made. A recording is a file, its content, or
                samples with their rate.
            text: what to say, likewise.
            language: its name; empty for one that is not told.
            options: how to decode; None for what the experiment keeps.
            name: seeds the draws together with `options.seed`.
            further: what else a mode of another package needs.
            rate: of a prompt that is samples, in Hz.
            **changes: options of the decoding that differ, by name, such as decoding="parallel" or temperature=0.6.

        Returns:
            The speech.

        Raises:
            UserError: if the model cannot use what is given; the message names it.
        """
        mode = modes[mode]() if isinstance(mode, str) else mode
        self.check_language(language)
        request = self._request(mode, _with_rate(prompt, rate), text)
        said = None if speech is None else self._said(speech)
        request = replace(request, speech=said, language=language, further=further or {})
        return self.speak_all(mode, [name], [request], self._options(mode, options, changes))[0]

    def batch(
        self,
        texts: Sequence[str],
        prompt: Sound | Sequence[Sound | None] | None = None,
        options: DecodeOptions | None = None,
        names: Sequence[str] | None = None,
        rate: int | None = None,
        **changes: Any,
    ) -> list[Speech]:
        """Speech for several texts at once, each as a call makes it.

        Args:
            texts: what to say.
            prompt: who says it, see `speak`; a list has one, or None, for each text.
            options: how to decode; None for what the experiment keeps.
            names: seed the draws of each, together with `options.seed`; None for the one that a call has.
            rate: of one prompt that is samples, in Hz.
            **changes: options of the decoding that differ, by name.

        Returns:
            One speech per text.

        Raises:
            UserError: as a call, with the number of the text.
        """
        if isinstance(texts, str):
            raise UserError(f"texts must be a list of texts, got the plain string {texts!r}")
        prompts: Sequence[Any] = list(prompt) if isinstance(prompt, list) else [_with_rate(prompt, rate)] * len(texts)
        names = ["utterance"] * len(texts) if names is None else names
        if not len(texts) == len(prompts) == len(names):
            raise UserError(f"prompt and names must be one per text = {len(texts)}, got {len(prompts)}, {len(names)}")
        mode = self.text_mode(any(one is not None for one in prompts))
        options = self._options(mode, options, changes)
        self.check(options, mode)
        requests: list[Request] = []
        for row, (text, sound) in enumerate(zip(texts, prompts, strict=True)):
            try:
                if row and sound is prompts[0]:
                    requests.append(replace(requests[0], text=_checked(text)))
                else:
                    requests.append(self._request(mode, sound, text))
                self.reader.tokenizer.read_to_speak(text)
            except UserError as error:
                raise UserError(f"text {row}, {text!r}: {error}") from None
        return self.speak_all(mode, names, requests, options) if requests else []

    def speak_all(
        self,
        mode: Mode,
        names: Sequence[str],
        requests: Sequence[Request],
        options: DecodeOptions,
        warn: bool = True,
    ) -> list[Speech]:
        """Several utterances at once; every row comes out as if it were alone.

        Args:
            mode: how they are asked for.
            names: utterance ids; an id and the seed determine the draws.
            requests: what is known of each.
            options: how to decode.
            warn: whether to log what the model does not know of the texts; the speech tells it in any case.

        Returns:
            One speech per row.

        Raises:
            UserError: if the model cannot be decoded so, or naming the utterance whose prompt, units, codes or language
                it cannot use.
        """
        parts = [self._parts(mode, name, request) for name, request in zip(names, requests, strict=True)]
        if any(len(one) > 1 for one in parts):
            spoken = self._speak_parts(mode, list(chain.from_iterable(parts)), len(parts), options)
            if warn:
                self.warn_of_unknown(one.unknown for one in spoken)
            cost, ends = total({id(one.timing): one.timing for one in spoken}.values()), accumulate(map(len, parts))
            joined = [join_speech(spoken[end - len(one) : end]) for one, end in zip(parts, ends, strict=True)]
            return [replace(one, timing=cost) for one in joined]
        codec, begin = self.codec, time.perf_counter()
        starts, spelt, decoding = self._prepare(mode, names, requests, options)
        if warn:
            self.warn_of_unknown(start.unknown for start in starts)
        generation = generate_with_retries(decoding, options.seed, options.retries or 0)
        generated = time.perf_counter()
        generation = _with_starts(generation, starts)
        speeches, samples = decode_speech(codec, generation)
        timing = Timing.of(generation, self.corelm.slots, samples, codec.spec.sample_rate_hz)
        timing.units = sum(start.generated for start in starts)
        timing.seconds_units = spelt - begin if timing.units else 0.0
        timing.seconds_lm = generated - begin - timing.seconds_units
        wholes = [
            self._whole(start, speech) if mode.continues else None
            for start, speech in zip(starts, speeches, strict=True)
        ]
        timing.seconds_codec = time.perf_counter() - generated
        words = spoken_words(self, mode, requests, starts, generation.codes, generation.lengths)
        prompts = [mode.prompt_seconds(self, request) for request in requests]
        about: list[dict[str, Any]] = [
            {"whole": whole, "unknown": start.unknown, "words": when, "prompt_sec": given, "prompt_used_sec": used}
            | ({"units": start.units} if self.corelm.reads == "semantic" else {})
            for start, whole, when, (given, used) in zip(starts, wholes, words, prompts, strict=True)
        ]
        return [
            replace(speech, timing=timing, options=options, codec=self.fingerprint, **more)
            for speech, more in zip(speeches, about, strict=True)
        ]

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
        generation, unknown = self.codes_and_unknown(names, texts, prompts, options)
        self.warn_of_unknown(unknown)
        return generation

    def codes_and_unknown(
        self,
        names: Sequence[str],
        texts: Sequence[str],
        prompts: Sequence[NDArray[np.int64] | None],
        options: DecodeOptions,
    ) -> tuple[Generation, list[tuple[str, ...]]]:
        """What `codes` gives, and what the model does not know of each text, without a word about it."""
        mode = self.text_mode(any(prompt is not None for prompt in prompts))
        requests = [self._request(mode, prompt, text) for text, prompt in zip(texts, prompts, strict=True)]
        starts, _, decoding = self._prepare(mode, names, requests, options)
        generation = generate_with_retries(decoding, options.seed, options.retries or 0)
        return generation, [start.unknown for start in starts]

    def warn_of_unknown(self, found: Iterable[Sequence[str]]) -> None:
        """Log once what the model does not know of several texts.

        Args:
            found: `Speech.unknown` of each.
        """
        unknown = [token for tokens in found for token in tokens]
        if unknown:
            logging.warning("tokens outside of the vocabulary: %s", self.reader.tokenizer.describe(unknown))

    def stream(
        self,
        text: str,
        prompt: Sound | None = None,
        options: DecodeOptions | None = None,
        name: str = "utterance",
        chunk_frames: int = 10,
        rate: int | None = None,
        **changes: Any,
    ) -> Iterator[SpeechChunk]:
        """Speech for one text, piece by piece while it is made; see `stream_speech`.

        Args:
            text: what to say.
            prompt: who says it, see `speak`.
            options: how to decode; None for what the experiment keeps.
            name: seeds the draws together with `options.seed`.
            chunk_frames: frames of a piece, at least.
            rate: of a prompt that is samples, in Hz.
            **changes: options of the decoding that differ, by name.

        Returns:
            The pieces; their codes are those of a call with the same arguments. Speech that has run away ends where a
            call would decode it again.

        Raises:
            UserError: as a call; or if the model delays codebooks.
        """
        mode = self.text_mode(prompt is not None)
        request = self._request(mode, _with_rate(prompt, rate), text)
        options, parts = self._options(mode, options, changes), self._parts(mode, name, request)
        given, used = mode.prompt_seconds(self, request)
        first = self._prepare(
            mode, [parts[0][0]], [parts[0][1]], options
        )  # what is wrong is said before the first piece

        def pieces(request: Request, prepared: tuple[list[Start], float, Decoding]) -> Iterator[SpeechChunk]:
            (start,), _, decoding = prepared
            self.warn_of_unknown([start.unknown])
            for chunk in stream_speech(self.codec, generate_stream(*decoding[:-2], depth=decoding.depth), chunk_frames):
                about: dict[str, Any] = {"unknown": start.unknown, "prompt_sec": given, "prompt_used_sec": used}
                if chunk.is_last:
                    codes = torch.from_numpy(chunk.codes)[None].to(self.device)
                    length = torch.tensor([codes.shape[1]], device=self.device)
                    about["words"] = spoken_words(self, mode, [request], [start], codes, length)[0]
                yield replace(chunk, **about)

        def more(name: str, request: Request) -> Callable[[], Iterator[SpeechChunk]]:
            return lambda: pieces(request, self._prepare(mode, [name], [request], options))

        later = [more(*part) for part in parts[1:]]
        return join_streams([lambda: pieces(parts[0][1], first), *later], self.codec.spec.sample_rate_hz)

    def decoding(
        self, model: StepModel, conditions: Any, options: DecodeOptions, names: Sequence[str], limit: Tensor
    ) -> Decoding:
        """What `generate` is given for a core LM or a stage of it: rows with these names, most frames `limit` (B,)."""
        sampler = Sampler(options.sampler, row_generators(options.seed, names, self.device))
        given = model, conditions, options.strategy, sampler, limit, options.min_frames, self._step, names
        return Decoding(*given, None, None, options.steps, options.caching, self.most_rows, options.layers)

    def _options(self, mode: Mode, options: DecodeOptions | None, changes: Mapping[str, Any]) -> DecodeOptions:
        if options is None:
            options = self.options(mode, **changes)
        elif isinstance(options, DecodeOptions):
            options = options.changed(**changes)
        else:
            raise UserError(f"options must be DecodeOptions, got {type(options).__name__}")
        return options if options.retries is not None else replace(options, retries=LISTENED_TO)

    def _prepare(
        self, mode: Mode, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> tuple[list[Start], float, Decoding]:
        """What codes are generated behind, when that was known, and what `generate` is given."""
        self.check(options, mode)
        starts = mode.starts(self, names, requests, options)
        spelt = time.perf_counter()
        conditions = mode.conditions(self, names, requests, starts)
        limit = mode.limits(self, names, starts, conditions, options)
        watch = mode.watch(self, starts, options)
        decoding = self.decoding(self.corelm, conditions, options, names, limit)
        return starts, spelt, decoding._replace(watch=watch, end_guard=options.end_guard)

    def _request(self, mode: Mode, prompt: Any, text: str) -> Request:
        text = _checked(text)
        if prompt is None:
            return Request(text=text)
        codes = own_codes(prompt, "prompt", self.fingerprint)
        if codes is not None:
            return Request(prompt=Streams(NO_UNITS, codes), text=text)
        voice = self.listener.hear_prompt(prompt, mode.prompt_frames(self))
        return Request(prompt=voice.streams, text=text, prompt_sec=voice.seconds)

    def _said(self, speech: Any) -> Streams:
        codes = None if self.corelm.reads == "semantic" else own_codes(speech, "speech", self.fingerprint)
        return self.listener.hear(speech, "speech") if codes is None else Streams(NO_UNITS, codes)

    def _parts(self, mode: Mode, name: str, request: Request) -> list[tuple[str, Request]]:
        """Name and request, or, with a longer text than any of the training, those of each part of it."""
        longest = self.reader.longest if mode.source == "text" else None
        if longest is None or not request.text.strip():
            return [(name, request)]
        tokenizer = self.reader.tokenizer
        parts: list[str] = []
        for part in parts_of(request.text, lambda part: tokenizer.count(part) <= longest):
            if parts and not tokenizer.is_known(parts[-1]):  # what cannot be said alone goes with what follows
                parts[-1] = f"{parts[-1]} {part}"
            else:
                parts.append(part)
        if len(parts) > 1 and not tokenizer.is_known(parts[-1]):
            parts[-2:] = [" ".join(parts[-2:])]
        if len(parts) == 1:
            return [(name, request)]
        return [(f"{name}.{number}", replace(request, text=part)) for number, part in enumerate(parts)]

    def _speak_parts(
        self, mode: Mode, parts: Sequence[tuple[str, Request]], rows: int, options: DecodeOptions
    ) -> list[Speech]:
        at_once, spoken = max(rows, PARTS_AT_ONCE), []
        for first in range(0, len(parts), at_once):
            names, requests = zip(*parts[first : first + at_once], strict=True)
            spoken += self.speak_all(mode, names, requests, options, warn=False)
        return spoken

    def _whole(self, start: Start, speech: Speech) -> NDArray[np.float32]:
        codes = torch.from_numpy(np.concatenate((start.prompt, speech.codes)))
        waves, _ = self.codec.decode(codes[None], torch.tensor([len(codes)]))
        return cut_off(waves[0].numpy(), speech.has_eos, self.codec.spec.sample_rate_hz)


def _with_starts(generation: Generation, starts: Sequence[Start]) -> Generation:
    """The codes, whose rows have not ended, or have run away, where the units they were made from have not or have."""
    ended = generation.has_eos.cpu() & torch.tensor([start.has_eos for start in starts])
    why = tuple(reason or start.runaway for reason, start in zip(generation.runaway, starts, strict=True))
    return replace(generation, has_eos=ended, runaway=why)


def _with_rate(prompt: Any, rate: int | None) -> Any:
    return prompt if rate is None or prompt is None else (prompt, rate)


def _checked(text: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"text must be a string, got {type(text).__name__}")
    return text
