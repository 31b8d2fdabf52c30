"""A trained experiment as a Python object: what it is made of, and what it can be asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from espnet_ext.data.encoding import check_device
from espnet_ext.data.streams import Streams
from espnet_ext.decoding import SpeechLimits, Step, plain_step
from espnet_ext.decoding.options import DecodeOptions, strategies_for
from espnet_ext.errors import UserError
from espnet_ext.fast import Acceleration, FastOptions, accelerate
from espnet_ext.fast.graphs import Graphs
from espnet_ext.inference.decode_yaml import kept_options
from espnet_ext.inference.experiment import Experiment
from espnet_ext.inference.listener import Listener
from espnet_ext.inference.requests import Mode, default_mode, modes_of, name_of
from espnet_ext.model.core_lm import CoreLM
from espnet_ext.model.heads import CODEC, Codebooks
from espnet_ext.registries import modes
from espnet_ext.storage.pretrained import pretrained
from espnet_ext.tokenizers.codec import Codec
from espnet_ext.tokenizers.semantic import SemanticTokenizer
from espnet_ext.tokenizers.text.tokens import TextTokenizer

MARGIN, UNKNOWN_RATIO = 1.5, 6.0  # of what training utterances need; of an experiment that does not tell


class Trained:
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
        directory: the experiment, which keeps how it is decoded; None if there is none.
    """

    kind: ClassVar[str] = ""  # the one core LM that it may be of; empty for any

    def __init__(
        self,
        corelm: CoreLM,
        codec: Codec | None,
        inputs: Any,
        semantic: Callable[[], SemanticTokenizer] | None = None,
        text_to_units: Self | None = None,
        device: str = "cpu",
    ) -> None:
        self.corelm: Any = corelm.eval().to(device)  # what a mode asks of it beyond a CoreLM is the mode's business
        if codec is not None:
            self.corelm.heads.code_vectors[CODEC] = Codebooks(lambda: codec.code_vectors())
        self._codec, self.inputs, self._semantic, self.device = codec, inputs, semantic, device
        self.text_to_units = text_to_units
        self.silence: Streams | None = None
        self.directory: Path | None = None
        self._step: Step = plain_step
        self._most_rows: int | None = None

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
            UserError: if config, weights, codec and tokenizers do not fit each other, or there is no such device.
        """
        check_device(device)
        experiment, texts = Experiment.read(directory, model_file), None
        if cls.kind not in ("", experiment.args.corelm):
            raise UserError(
                f"exp must be an experiment of corelm {cls.kind}, got {directory} of {experiment.args.corelm}"
            )
        if text_to_semantic is not None:
            front = Experiment.read(text_to_semantic)
            front.check_says(experiment.semantic_info(), experiment.directory)
            texts = cls(front.load_corelm(), None, front.inputs, device=device)
        semantic = None
        if getattr(experiment.args, "semantic_info", None) is not None:
            experiment.semantic_info()  # another tokenizer than that of the training is refused
            semantic = experiment.load_semantic
        codec = None if experiment.says_units else experiment.load_codec()
        speaker = cls(experiment.load_corelm(), codec, experiment.inputs, semantic, texts, device)
        speaker.directory = experiment.directory
        return speaker

    @classmethod
    def from_pretrained(
        cls, source: Path | str, text_to_semantic: Path | str | None = None, device: str = "cpu"
    ) -> Self:
        """Load what somebody else trained.

        Args:
            source: a directory, a .zip of ``espnet-ext pack`` or of ESPnet's packer, its address, which may end in
                ``#sha256=HEX``, an ``owner/name`` of a hub, or a voice that comes along, such as "mini".
            text_to_semantic: a text-to-semantic model, likewise; None without the mode tts.
            device: where the language model runs, "cpu" or "cuda".

        Returns:
            The model, ready to speak.

        Raises:
            FileNotFoundError: if there is nothing of that name.
            UserError: if it cannot be fetched, or is damaged.
        """
        directory, model_file = pretrained(source)
        front = None if text_to_semantic is None else pretrained(text_to_semantic).directory
        return cls.from_experiment(directory, model_file, front, device)

    @property
    def most_rows(self) -> int | None:
        """Rows that are generated at once, at most, the others joining as those are finished; None for all."""
        return self._most_rows

    @most_rows.setter
    def most_rows(self, count: int | None) -> None:
        self._most_rows = count
        if self.text_to_units is not None:
            self.text_to_units.most_rows = count

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

    @property
    def reader(self) -> Self:
        """The model that reads texts: the text-to-semantic one, where there is one."""
        return self.text_to_units or self

    @property
    def fingerprint(self) -> str:
        """That of the codec of the training; empty if nobody knows it."""
        facts = getattr(self.inputs, "codec", {})
        return str(facts.get("fingerprint", ""))

    @property
    def longest(self) -> int | None:
        """Most tokens of a text that it is given at once; None where nobody knows, or it reads no text."""
        return self.inputs.longest if self.corelm.reads == "text" else None

    def text_mode(self, prompted: bool) -> Mode:
        """How the model is asked to say a text, with a recording of the voice to speak with or without."""
        corelm = type(self.corelm)
        names = [name for name in (default_mode(corelm), *modes_of(corelm)) if name and modes[name].source == "text"]
        if not names:
            raise UserError(f"mode must be one of {modes_of(corelm)}: this core LM reads no text")
        kind: Any = modes[names[0]]
        return kind(prompt_sec=0) if kind().prompted and not prompted else kind()

    def options(self, mode: Mode, **changes: Any) -> DecodeOptions:
        """How it is decoded where nothing else is said: as its experiment keeps it.

        Args:
            mode: how utterances are asked for.
            **changes: what is to differ, see `DecodeOptions.changed`.

        Returns:
            The options.

        Raises:
            UserError: naming the option that is wrong.
        """
        decoding = changes.get("decoding")
        if self.directory is not None:
            kept, source = kept_options(self.directory, decoding, mode.options, self.corelm.objective)
        else:
            kept, source = mode.options().for_objective(self.corelm.objective), None
        if source is None and decoding is None:
            possible = strategies_for(self.corelm.heads)
            changes["decoding"] = kept.decoding if kept.decoding in possible else possible[0]
        return kept.changed(**changes)

    @cached_property
    def limits(self) -> SpeechLimits:
        """What no speech of the training exceeds, as far as its experiment keeps it."""
        return SpeechLimits.of(getattr(self.inputs, "speech_limits", None))

    def maxlenratio(self, options: DecodeOptions) -> float:
        """Most frames per token: what the options say, or else what the training set needed, and half as much again."""
        if options.maxlenratio is not None:
            return options.maxlenratio
        needed = self.inputs.frames_per_token
        return UNKNOWN_RATIO if needed is None else MARGIN * needed

    def check(self: Any, options: DecodeOptions, mode: Mode | None = None) -> None:
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
        options.check(self.corelm)

    def check_language(self, language: str) -> None:
        """Refuse a language, if one is named, that the model was not trained to be told, with those there are."""
        known = getattr(self.corelm, "languages", ())
        if language and language not in known:
            allowed = f"one of {list(known)}" if known else "left out with a model that is told no language"
            raise UserError(f"language must be {allowed}, got {language!r}")
