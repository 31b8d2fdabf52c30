"""Our side of the benchmark: a model of the asked sizes with random weights, served to it in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from espnet_ext.benchmark.worker import Decode, context_codes, serve
from espnet_ext.codes import CodecSpec
from espnet_ext.decoding import (
    DecodingStrategy,
    Filled,
    Generation,
    Step,
    build_strategy,
    generate,
    generate_stream,
    plain_step,
)
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.fast import FastOptions, accelerate
from espnet_ext.fast.graphs import Graphs, StaticStep
from espnet_ext.model.core_lm import StepModel, TextCoreLM
from espnet_ext.model.primary import Conditions, PrimaryState
from espnet_ext.model.transformer import Transformer
from espnet_ext.tokenizers.codec import EncodecCodec

FRAME_RATE_HZ = 75.0  # EnCodec's
LOCALS = {"local_maskgit": "maskgit", "local_maskgit_adaptive": "maskgit"}  # the others use the autoregressive one


def build(sizes: dict[str, Any]) -> tuple[Decode, dict[str, Any]]:
    """The model, made fast as the cell says, its decoding, and its facts."""
    strategy = build_strategy(sizes["strategy"], **sizes.get("strategy_conf", {}))
    model = random_model(sizes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model = model.to(sizes["device"])
    step: Step = plain_step
    facts: dict[str, Any] = {"parameters": parameters, "version": "espnet_ext", **step_cost(model, sizes)}
    if sizes["precision"] != "reference":
        options = FastOptions(
            sizes["precision"], native=sizes["native"], compile=sizes["compile"], graphs=sizes["graphs"]
        )
        done = accelerate(model, options, rows=sizes["batch"])
        facts |= {"backends": done.backends, "calibration_ms": done.calibration_ms}
        for name in ("primary_bytes", "bytes_per_step"):
            facts[name] *= done.bytes_per_weight / 4
        step = done.step
    bench = _Bench(model, strategy, step, sizes)
    facts["details"] = bench.details
    return bench.part("local" if sizes.get("part") == "local" else "all"), facts


def random_model(sizes: dict[str, Any]) -> TextCoreLM:
    """A decoder-only model of the asked sizes, in eval mode; the local transformer is the one the strategy needs."""
    spec = CodecSpec(sizes["codebooks"], sizes["codebook_size"], FRAME_RATE_HZ, 16000)
    local = LOCALS.get(sizes["strategy"], "ar")
    conf = {"width": sizes["local_width"], "layers": sizes["local_layers"], "heads": sizes["local_heads"]}
    primary = {"width": sizes["width"], "layers": sizes["layers"], "heads": sizes["heads"], "dropout": 0.0}
    return TextCoreLM(
        spec, 32, "prefix", primary, local, conf, frame_stacking_factor=sizes["s"], conditioning_dropout=0.1
    ).eval()  # fmt: skip


def step_cost(model: TextCoreLM, sizes: dict[str, Any]) -> dict[str, float]:
    """What a step at least has to read and to multiply, with float32 weights: bytes and operations.

    Every weight is read once per step, however often it is used: what is used again comes from a cache.
    """
    stacks = [part for part in model.primary.modules() if isinstance(part, Transformer)]
    primary = sum(parameter.numel() for part in stacks for parameter in part.parameters())
    head = model.heads["parallel" if sizes["strategy"] == "parallel" else LOCALS.get(sizes["strategy"], "ar")]
    named = [(name, parameter.numel()) for name, parameter in head.named_parameters()]
    classifiers = sum(count for name, count in named if name.startswith("heads"))
    blocks = sum(count for name, count in named if not name.startswith(("heads", "embedding")))
    # each slot passes the blocks of a local transformer once, and one classifier
    multiplied = primary + blocks * model.slots + classifiers
    return {
        "primary_bytes": 4.0 * primary,
        "bytes_per_step": 4.0 * (primary + blocks + classifiers),
        "flops_per_step": 2.0 * sizes["batch"] * multiplied,
    }


@dataclass
class _Clock:
    """Seconds by part."""

    seconds: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = perf_counter()
        yield
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - started


@dataclass(frozen=True)
class _TimedSampler(Sampler):
    """A sampler whose distributions, draws and noise are timed."""

    clock: _Clock = field(default_factory=_Clock)

    def distribution(self, logits: Tensor, first_slot: int = 0) -> tuple[Tensor, Tensor]:
        with self.clock.part("sampling"):
            return super().distribution(logits, first_slot)

    def categorical(self, probs: Tensor, first_slot: int = 0) -> Tensor:
        with self.clock.part("sampling"):
            return super().categorical(probs, first_slot)

    def with_fixed_noise(self, slots: int, vocab_size: int, device: torch.device) -> Sampler:
        with self.clock.part("sampling"):
            return super().with_fixed_noise(slots, vocab_size, device)


class _Bench:
    """One cell's model, with everything that is measured of it."""

    def __init__(self, model: TextCoreLM, strategy: DecodingStrategy, step: Step, sizes: dict[str, Any]) -> None:
        self.model, self.strategy, self.step, self.sizes = model, strategy, step, sizes
        self._local_graph: StaticStep | None = None
        self.sampling = SamplingOptions(temperature=0.0 if sizes["top_k"] == 1 else 1.0, top_k=sizes["top_k"])

    def part(self, name: str) -> Decode:
        if name == "local":
            return self.local_only

        def decode(context: int, frames: int) -> Iterator[None]:
            for _ in self.decode(context, frames):
                yield

        return decode

    def _request(self, context: int) -> Conditions:
        batch, device = self.sizes["batch"], self.sizes["device"]
        prompt = context_codes(1, context, self.model.spec.num_codebooks, self.model.spec.codebook_size)
        rows = prompt.to(device).expand(batch, -1, -1)
        lengths = torch.full((batch,), context, device=device)
        text = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        return self.model.conditions(text, torch.ones_like(lengths), rows, lengths)

    def _sampler(self) -> Sampler:
        names = [str(row) for row in range(self.sizes["batch"])]
        return Sampler(self.sampling, row_generators(0, names, self.sizes["device"]))

    def decode(self, context: int, frames: int) -> Iterator[Generation]:
        """So many frames, step by step; none of them can be the last."""
        request = self._request(context)
        return generate_stream(self.model, request, self.strategy, self._sampler(), frames, frames, self.step)

    def local_only(self, context: int, frames: int) -> None:
        """The strategy alone, for the steps of so many frames."""
        dtype = next(self.model.embedding.parameters()).dtype
        hidden = torch.randn(self.sizes["batch"], self.model.primary.width, device=self.sizes["device"], dtype=dtype)
        spec = self.model.spec
        legal = torch.ones(1, self.model.slots, spec.vocab_size, dtype=torch.bool, device=hidden.device)
        legal[:, :, spec.codebook_size :] = False
        sampler = self._sampler().for_step(legal)
        heads, strategy = self.model.heads, self.strategy
        if isinstance(self.step, Graphs) and self._local_graph is None:
            self._local_graph = StaticStep(lambda taped: strategy.rounds(heads, hidden, taped), sampler, True)
        for _ in range(frames // self.model.stacking):
            if self._local_graph is None:
                strategy.decode_step(heads, hidden, sampler)
            else:
                self._local_graph(sampler)

    def details(self, request: dict[str, Any]) -> dict[str, Any]:
        """Shares of the parts, passes, and the time until the first step's codes are out."""
        clock = _Clock(device=self.sizes["device"])
        sampler = _TimedSampler(self.sampling, self._sampler().generators, clock=clock)
        frames, conditions = request["frames"], self._request(request["context"])

        def step(
            model: StepModel, strategy: DecodingStrategy, codes: Tensor, state: PrimaryState, drawn: Sampler
        ) -> Filled:
            with clock.part("primary"):
                hidden = model.step(codes, state)
            return strategy.decode_step(model.heads, hidden, drawn)

        started = perf_counter()
        next(self.decode(request["context"], frames))
        first = perf_counter() - started
        with clock.part("prefill"):
            self.model.prefill(conditions, frames // self.model.stacking)
        started = perf_counter()
        generation = generate(self.model, conditions, self.strategy, sampler, frames, frames, step)
        total = perf_counter() - started
        codec = _codec_seconds(generation.codes[:1].cpu(), self.model.stacking)
        steps = float(generation.steps.sum())
        parts: dict[str, Any] = {}
        if not isinstance(self.step, Graphs):  # what is inside of a graph cannot be timed
            parts["primary_seconds_per_step"] = clock.seconds["primary"] / (steps / self.sizes["batch"])
            seconds_of = {"total": total - clock.seconds.pop("prefill"), **clock.seconds}
            parts["seconds_of"] = {**seconds_of, "codec": codec.get("per_frame", 0.0) * frames}
        return {
            **parts,
            "ttfa_ms": 1000 * (first + codec["first"]) if codec else 1000 * first,
            "local_passes_per_frame": float(generation.local_passes.sum()) / steps / self.model.stacking,
        }


def _codec_seconds(codes: Tensor, frames: int) -> dict[str, float]:
    """What EnCodec's decoder, with random weights, takes for one frame and for the frames of the first step."""
    if codes.shape[2] != 8 or int(codes.max()) >= 1024:
        return {}
    try:
        codec = EncodecCodec.create([], 0, pretrained=False)
    except ValueError:  # the package is an optional extra
        return {}
    times = []
    for count in (frames, codes.shape[1]):
        codec.decode(codes[:, :count], torch.tensor([count]))
        started = perf_counter()
        codec.decode(codes[:, :count], torch.tensor([count]))
        times.append(perf_counter() - started)
    return {"first": times[0], "per_frame": times[1] / codes.shape[1]}


if __name__ == "__main__":
    serve(build)
