"""Everything a decode yaml may say, checked before anything is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from espnet_ext.decoding import DecodingStrategy, build_strategy, strategies
from espnet_ext.decoding.sampling import SamplingOptions
from espnet_ext.errors import UserError
from espnet_ext.model.heads import Heads
from espnet_ext.options import check_number

UNIT_DECODING = "parallel"  # a unit is one code, so that there is nothing else to choose


@dataclass(frozen=True)
class DecodeOptions:
    """How texts become codes.

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
    sampling: Mapping[str, Any] = field(default_factory=dict)
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
                raise UserError(f"{name} must be {what}, got {value!r}")
        check_number("seed", self.seed, whole=True)
        check_number("min_frames", self.min_frames, least=1, whole=True)
        check_number("maxlenratio", self.maxlenratio, above=0)
        build_strategy(self.decoding, **self.decoding_conf)
        self.sampling_options()

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Self:
        """Options from a yaml's content.

        Args:
            options: names and values.

        Returns:
            The options.

        Raises:
            UserError: if a name is unknown.
        """
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(options) - set(known), key=str)
        if unknown:
            raise UserError(f"inference_config must have keys among {known}, got {unknown}")
        return cls(**options)

    def sampling_options(self) -> SamplingOptions:
        """The checked sampling options.

        Returns:
            The options.

        Raises:
            UserError: if a name is unknown or a value out of range.
        """
        return checked_sampling("sampling", self.sampling)

    def complete(self) -> dict[str, Any]:
        """All options with the defaults of strategy and sampler, as timing.json reports them."""
        strategy: Any = build_strategy(self.decoding, **self.decoding_conf)
        conf = asdict(strategy)
        return {**asdict(self), "decoding_conf": conf, "sampling": asdict(self.sampling_options())}

    def strategy_for(self, heads: Heads) -> DecodingStrategy:
        """The strategy, if a model with these heads can run it.

        Args:
            heads: the model's.

        Returns:
            The strategy.

        Raises:
            UserError: naming the head that is missing, or the option that does not fit.
        """
        possible = [
            name
            for name in strategies
            if all(any(isinstance(head, kind) for head in heads.values()) for kind in strategies[name].head_types)
        ]
        if self.decoding not in possible:
            needed = ", ".join(kind.__name__ for kind in strategies[self.decoding].head_types)
            allowed = f"one of {possible} with this model's heads {list(heads)}"
            raise UserError(f"decoding must be {allowed}, got {self.decoding!r}, which needs {needed}")
        strategy = build_strategy(self.decoding, **self.decoding_conf)
        strategy.check(heads)
        return strategy


@dataclass(frozen=True)
class GPSTDecodeOptions(DecodeOptions):
    """Everything a decode yaml of GPST may say.

    Attributes:
        maxlenratio: most frames per semantic unit that is left to speak.
        semantic_sampling: fields of `SamplingOptions`, for units that are generated.
        semantic_maxlenratio: most units per text token.
        max_sec: most units of unconditional speech, as the seconds that they take if none is repeated; where the model
            reads units without repetitions, the speech lasts longer.
    """

    semantic_sampling: Mapping[str, Any] = field(default_factory=dict)
    semantic_maxlenratio: float = 6.0
    max_sec: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("semantic_maxlenratio", self.semantic_maxlenratio, above=0)
        check_number("max_sec", self.max_sec, above=0)
        if not isinstance(self.semantic_sampling, Mapping):
            raise UserError(f"semantic_sampling must be names and values, got {self.semantic_sampling!r}")
        self.semantic_options()

    def semantic_options(self) -> SamplingOptions:
        """The checked sampling options of units.

        Returns:
            The options.
        """
        return checked_sampling("semantic_sampling", self.semantic_sampling)

    def for_texts(self) -> DecodeOptions:
        """How a text-to-semantic model is decoded."""
        return DecodeOptions(
            UNIT_DECODING, {}, self.semantic_sampling, self.seed, maxlenratio=self.semantic_maxlenratio, min_frames=1
        )


def checked_sampling(name: str, values: Mapping[str, Any]) -> SamplingOptions:
    """Sampling options from an option of a decode yaml.

    Args:
        name: of the option.
        values: fields of `SamplingOptions`.

    Returns:
        The options.

    Raises:
        UserError: if a name is unknown or a value out of range.
    """
    known = list(inspect.signature(SamplingOptions).parameters)
    unknown = sorted(set(values) - set(known), key=str)
    if unknown:
        raise UserError(f"{name} must have keys among {known}, got {unknown}")
    return SamplingOptions(**values)
