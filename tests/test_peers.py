"""With the weights of a peer our greedy codes are its own; peers that are not installed are skipped."""

import functools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from espnet_ext.benchmark import worker
from espnet_ext.benchmark.race import peer
from espnet_ext.decoding import LocalAR, generate
from espnet_ext.decoding.sampling import Sampler, SamplingOptions
from espnet_ext.fast import FastOptions, accelerate
from espnet_ext.fast.native import compiler

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))
import mapping  # noqa: E402 (of the benchmarks)

SIZES = {
    "width": 128, "layers": 3, "heads": 4, "local_width": 64, "local_layers": 2, "local_heads": 2, "codebooks": 8,
    "codebook_size": 64, "batch": 1, "threads": 1, "device": "cpu", "top_k": 1, "gain": 1.5,
}  # fmt: skip
CONTEXT, FRAMES = 4, 40


def sizes_of(name: str) -> dict[str, object]:
    """Sizes that a peer can have."""
    return {**SIZES, "local_width": SIZES["width"]} if name == "espnet" else SIZES


@functools.cache
def reference(name: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Greedy codes (1, T, N) and weights of a peer."""
    try:
        entry = peer(name, None, PEERS, sizes_of(name))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    file = Path(tempfile.mkdtemp()) / "peer.pt"
    request = {"context": CONTEXT, "frames": FRAMES, "save": str(file)}
    done = subprocess.run(
        [*entry.command, json.dumps(dict(entry.sizes))], input=json.dumps(request), capture_output=True, text=True,
        env={"PYTHONPATH": str(Path(worker.__file__).parent), "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    saved = torch.load(file, weights_only=True)
    shutil.rmtree(file.parent)
    return saved["codes"], saved["weights"]


def greedy(model):
    """Our codes after the same context."""
    prompt = worker.context_codes(1, CONTEXT, SIZES["codebooks"], SIZES["codebook_size"])
    nothing = torch.zeros(1, 0, dtype=torch.int64)
    conditions = model.conditions(nothing, torch.tensor([0]), prompt, torch.tensor([CONTEXT]))
    sampler = Sampler(SamplingOptions(temperature=0.0))
    return generate(model, conditions, LocalAR(), sampler, FRAMES, FRAMES).codes


FAST = {
    "as it is": None,
    "float32": FastOptions("float32"),
    "native float32": FastOptions("float32", native=True),
}


@pytest.mark.parametrize("fast", list(FAST))
@pytest.mark.parametrize("name", ["espnet", "nemo"])
def test_greedy_codes_are_those_of_the_peer(name, fast):
    if "native" in fast and compiler() is None:
        pytest.skip("there is no C++ compiler")
    codes, weights = reference(name)
    model = getattr(mapping, f"from_{name}")(weights, sizes_of(name))
    if FAST[fast] is not None:
        accelerate(model, FAST[fast])
    ours = greedy(model)
    assert len(torch.unique(ours[0], dim=0)) > FRAMES // 3, "the codes should not be all the same"
    assert torch.equal(ours, codes)


def espnet_weights() -> dict[str, torch.Tensor]:
    """Random weights under the names of ESPnet's MultiScaleLM."""
    width, books, size = SIZES["width"], SIZES["codebooks"], SIZES["codebook_size"]
    ids = 64 + books * size
    weights = {"emb.weight": torch.randn(ids, width), "lm_head.weight": torch.randn(ids, width) * 0.2}
    weights["placeholder"] = torch.randn(width)
    for stack, layers in (("g_decoders", SIZES["layers"]), ("l_decoders", SIZES["local_layers"])):
        weights[f"{stack}.pos_emb.weight"] = torch.randn(CONTEXT + FRAMES + 2, width)
        shapes = {f"{stack}.ln": (width,)}
        for block in range(layers):
            inner = {"mlp.0": (4 * width, width), "mlp.2": (width, 4 * width), "attn_ln": (width,), "mlp_ln": (width,)}
            inner |= {f"attn.{part}": (width, width) for part in ("query", "key", "value", "out")}
            shapes |= {f"{stack}.blocks.{block}.{part}": shape for part, shape in inner.items()}
        for name, shape in shapes.items():
            weights[f"{name}.weight"] = torch.randn(shape) * 1.5 * shape[-1] ** -0.5
            weights[f"{name}.bias"] = torch.zeros(shape[0])
    return weights


def test_a_local_transformer_that_reads_in_its_own_way_keeps_its_codes():
    torch.manual_seed(0)
    model = mapping.from_espnet(espnet_weights(), sizes_of("espnet"))
    right = greedy(model)
    accelerate(model, FastOptions("float32"))
    assert isinstance(model.heads["ar"], mapping.MultiScaleLocal) and torch.equal(greedy(model), right)
    assert len(torch.unique(right[0], dim=0)) > 1, "the codes should not be all the same"
