"""Everything a decode yaml may say, parsed once and before anything is loaded."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from espnet_ext.decoding import CAUSAL, DecodingStrategy, Order, build_order, build_strategy, orders, strategies
from espnet_ext.decoding.depth import FULL, Depth, build_depth
from espnet_ext.decoding.request import check_fits
from espnet_ext.decoding.sampling import SamplingOptions
from espnet_ext.errors import UserError
from espnet_ext.model.caches import EXACT, CachePolicy, build_cache, caches
from espnet_ext.model.core_lm import CoreLM
from espnet_ext.model.heads import Heads
from espnet_ext.options import check_number, parse_yaml
from espnet_ext.registries import depths

SAMPLING = tuple(inspect.signature(SamplingOptions).parameters)
MOST_RETRIES = 100
LATER = ("retries", "end_guard")
UNIT_DECODING = "parallel"  # a unit is one code, so that there is nothing else to choose


@dataclass(frozen=True)
class DecodeOptions:
    """How texts become codes. `strategy` and `sampler` are built when the options are.

    Attributes:
        decoding: name of the strategy.
        decoding_conf: its options, as far as they are given.
        sampling: fields of `SamplingOptions`, as far as they are given.
        seed: of the draws; an utterance's draws depend on it and the utterance's id alone. None draws one.
        maxlenratio: most frames per text token; None for what the training set says of the experiment's tokens.
        min_frames: fewest frames of an utterance, at least 1.
        retries: how often speech that ran away is decoded again with other draws, at most `MOST_RETRIES`; it then stops
            where it has run away, and with 0 is only told. None for 1 where somebody listens (`say`, Python), and for
            0 where a corpus is decoded.
        end_guard: seconds after the end of the text from which on speech must end, and it cannot before, by the
            attention or its path; 0 for no guard, None for what the model says. An order that makes whole utterances
            has none.
        order: name of the order in which steps follow each other.
        order_conf: its options, as far as they are given.
        cache: name of the policy by which keys and values of earlier positions are kept.
        cache_conf: its options, as far as they are given.
        depth: name of what chooses the layers of the primary transformer that an utterance uses.
        depth_conf: its options, as far as they are given.

    Raises:
        UserError: naming the option that is unknown or out of range.
    """

    decoding: str = "local_ar"
    decoding_conf: Mapping[str, object] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    maxlenratio: float | None = None
    min_frames: int = 4
    retries: int | None = None
    end_guard: float | None = None
    order: str = "causal"
    order_conf: Mapping[str, object] = field(default_factory=dict)
    cache: str = "exact"
    cache_conf: Mapping[str, object] = field(default_factory=dict)
    depth: str = "full"
    depth_conf: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seed is None:
            object.__setattr__(self, "seed", secrets.randbelow(2**31))
        for name, kind, what in (
            ("decoding", str, "the name of a strategy"),
            ("decoding_conf", Mapping, "names and values"),
            ("sampling", Mapping, "names and values"),
            ("order", str, "the name of an order"),
            ("order_conf", Mapping, "names and values"),
            ("cache", str, "the name of a cache policy"),
            ("cache_conf", Mapping, "names and values"),
            ("depth", str, "the name of a depth"),
            ("depth_conf", Mapping, "names and values"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or not all(isinstance(key, str) for key in value):
                raise UserError(f"{name} must be {what}, got {value!r}")
        check_number("seed", self.seed, whole=True)
        check_number("min_frames", self.min_frames, least=1, whole=True)
        if self.maxlenratio is not None:
            check_number("maxlenratio", self.maxlenratio, above=0)
        if self.retries is not None:
            check_number("retries", self.retries, least=0, most=MOST_RETRIES, whole=True)
        if self.end_guard is not None:
            check_number("end_guard", self.end_guard, least=0)
        _ = self.strategy, self.sampler, self.steps, self.caching, self.layers
        self.steps.check_guard(self.end_guard)

    def __hash__(self) -> int:
        how = self.strategy, self.steps, self.caching, self.layers, self.sampler
        return hash((*how, self.seed, self.maxlenratio, self.min_frames))

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any], default: str = "local_ar") -> Self:
        """Options from a yaml's content.

        Args:
            options: names and values.
            default: strategy where none is named.

        Returns:
            The options.

        Raises:
            UserError: naming what is unknown or out of range.
        """
        known = [item.name for item in fields(cls)]
        if not isinstance(options, Mapping):
            raise UserError(f"inference_config must hold names and values, got a {type(options).__name__}")
        unknown = sorted(set(options) - set(known), key=str)
        if unknown:
            raise UserError(f"inference_config must have keys among {known}, got {unknown}")
        return cls(**with_new_names({"decoding": default, **options}))

    @classmethod
    def from_yaml(cls, path: Path | str, default: str = "local_ar") -> Self:
        """Options of a decode yaml.

        Args:
            path: the file.
            default: strategy where it names none.

        Returns:
            The options.

        Raises:
            FileNotFoundError: if there is no such file.
            UserError: naming what is wrong, and the file.
        """
        import yaml  # here: nothing else of decoding needs more than torch

        if not Path(path).is_file():
            raise FileNotFoundError(f"inference_config not found: {path}")
        try:
            content = parse_yaml(Path(path).read_text(encoding="utf-8-sig")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"inference_config must be a yaml file, got {path} ({reason})") from None
        try:
            return cls.from_mapping(content, default)
        except UserError as error:
            raise UserError(f"{error} (in {path})") from None

    def changed(self, **changes: Any) -> Self:
        """The same with some options changed.

        Args:
            **changes: options by name: those of this class, of its sampling, or of the strategy, of which a strategy's
                own come first: some have an `order`. Another strategy, order, cache or depth has none of this one's
                options.

        Returns:
            The options.

        Raises:
            UserError: naming the option that is unknown or out of range.
        """
        known = strategies.options(changes.get("decoding", self.decoding))
        own = {item.name for item in fields(self)} - set(known)
        mine = {name: value for name, value in changes.items() if name in own}
        for name in ("decoding", "order", "cache", "depth"):
            if mine.get(name, getattr(self, name)) != getattr(self, name):
                mine.setdefault(f"{name}_conf", {})
        told: Self = replace(self, **mine)
        samples = {name: value for name, value in changes.items() if name in SAMPLING}
        conf = {name: value for name, value in changes.items() if name not in {*own, *samples}}
        if unknown := sorted(set(conf) - set(known)):
            raise UserError(f"options must be among {sorted({*own, *SAMPLING, *known})}, got {unknown}")
        if not samples and not conf:
            return told
        return replace(told, sampling={**told.sampling, **samples}, decoding_conf={**told.decoding_conf, **conf})

    @cached_property
    def strategy(self) -> DecodingStrategy:
        """How the slots of a step are filled."""
        return build_strategy(self.decoding, **self.decoding_conf)

    @cached_property
    def steps(self) -> Order:
        """How steps follow each other."""
        return build_order(self.order, **self.order_conf)

    @cached_property
    def caching(self) -> CachePolicy:
        """How keys and values of earlier positions are kept."""
        return build_cache(self.cache, **self.cache_conf)

    @cached_property
    def layers(self) -> Depth:
        """What chooses the layers of the primary transformer that an utterance uses."""
        return build_depth(self.depth, **self.depth_conf)

    @cached_property
    def sampler(self) -> SamplingOptions:
        """How distributions are sharpened."""
        return _sampling("sampling", self.sampling)

    def given(self) -> dict[str, Any]:
        """All options; those that came later where they are not as they were: older results stay valid."""
        values = {name: value for name, value in asdict(self).items() if name not in LATER or value is not None}
        for name, as_before in (
            ("order", self.steps == CAUSAL),
            ("cache", self.caching == EXACT),
            ("depth", self.layers == FULL),
        ):
            if as_before:
                del values[name], values[f"{name}_conf"]
        return values

    def complete(self) -> dict[str, Any]:
        """What is given, with the defaults of strategy, order, cache, depth and sampler, as timing.json reports it."""
        strategy: Any = self.strategy
        values = {**self.given(), "decoding_conf": asdict(strategy), "sampling": asdict(self.sampler)}
        for name, registry in (("order", orders), ("cache", caches), ("depth", depths)):
            if name in values:
                values[f"{name}_conf"] = registry.complete(values[name], values[f"{name}_conf"])
        return values

    def for_objective(self, objective: str) -> Self:
        """The same if its order goes with models of an objective, else with the first one that does, as it comes.

        An order that makes whole utterances knows their ends, and has no guard of them.
        """
        fitting = [name for name in orders if orders[name].objective == objective]
        if self.order in fitting or not fitting:
            return self
        guard = None if orders[fitting[0]].whole else self.end_guard
        return replace(self, order=fitting[0], order_conf={}, end_guard=guard)

    def check(self, model: CoreLM) -> None:
        """Refuse a model that cannot be decoded so, with what is missing."""
        heads = model.heads
        possible = strategies_for(heads)
        if self.decoding not in possible:
            needed = ", ".join(kind.__name__ for kind in self.strategy.head_types)
            allowed = f"one of {possible} with this model's heads {list(heads)}"
            raise UserError(f"decoding must be {allowed}, got {self.decoding!r}, which needs {needed}")
        check_fits(model, self.strategy, self.steps, self.sampler, self.caching, self.layers)


@dataclass(frozen=True)
class GPSTDecodeOptions(DecodeOptions):
    """Everything a decode yaml of GPST may say.

    Attributes:
        maxlenratio: most frames per semantic unit that is left to speak.
        semantic_sampling: fields of `SamplingOptions`, for units that are generated.
        semantic_maxlenratio: most units per text token; None as for `maxlenratio`.
        max_sec: most units of unconditional speech, as the seconds that they take if none is repeated; where the model
            reads units without repetitions, the speech lasts longer.
    """

    semantic_sampling: Mapping[str, Any] = field(default_factory=dict)
    semantic_maxlenratio: float | None = None
    max_sec: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.semantic_maxlenratio is not None:
            check_number("semantic_maxlenratio", self.semantic_maxlenratio, above=0)
        check_number("max_sec", self.max_sec, above=0)
        if not isinstance(self.semantic_sampling, Mapping):
            raise UserError(f"semantic_sampling must be names and values, got {self.semantic_sampling!r}")
        _sampling("semantic_sampling", self.semantic_sampling)
        _ = self.units

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.units, self.max_sec))

    @cached_property
    def units(self) -> DecodeOptions:
        """How semantic units are generated, with or without a text."""
        ratio = self.semantic_maxlenratio
        how = DecodeOptions(UNIT_DECODING, {}, self.semantic_sampling, self.seed, maxlenratio=ratio, min_frames=1)
        return replace(how, retries=self.retries, cache=self.cache, cache_conf=self.cache_conf)


def with_new_names(options: dict[str, Any]) -> dict[str, Any]:
    """A decode yaml's content with options called as they are now: voices and tuned experiments have older ones."""
    conf = options.get("decoding_conf")
    if options["decoding"] != "local_speculative" or not isinstance(conf, Mapping) or set(conf) != {"coupling"}:
        return options
    name = conf["coupling"]
    return {**options, "decoding_conf": {"acceptance": "exact" if name == "rejection" else name}}


def strategies_for(heads: Heads) -> list[str]:
    """Names of the strategies that find the heads they need in a model."""
    return [
        name
        for name in strategies
        if all(any(isinstance(head, kind) for head in heads.values()) for kind in strategies[name].head_types)
    ]


def _sampling(name: str, values: Mapping[str, Any]) -> SamplingOptions:
    """Sampling options from the option of a decode yaml that has this name."""
    unknown = sorted(set(values) - set(SAMPLING), key=str)
    if unknown:
        raise UserError(f"{name} must have keys among {list(SAMPLING)}, got {unknown}")
    return SamplingOptions(**values)
