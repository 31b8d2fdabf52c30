"""How long a training will take on this machine: one step of the chosen configuration, measured on random codes."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from espnet_ext.codes import CodecSpec
from espnet_ext.model.build import ModelOptions
from espnet_ext.model.loss import LossWeights
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tasks.cost import measure_step
from espnet_ext.tasks.espnet_model import ESPnetCodecLMModel

CODEBOOKS, ENTRIES, OTHER_RATE_HZ = 8, 256, 50.0  # of a codec that is not made yet
RATES_HZ = {"world_vq": 25.0, "lyra": 50.0, "encodec": 75.0, "encodec_hf": 75.0, "mimi": 12.5}
VOCABULARY = 60
ROWS = 4  # of a batch that are measured; the rest is in proportion


@dataclass(frozen=True)
class Training:
    """One training of a recipe: its configuration, S, and what came out.

    Attributes:
        name: base, s1, s2, …
        updates: of the whole training.
        seconds: of one update, in one thread that has a core for itself.
        batch_sec: seconds of speech in a batch.
        parameters: of the model.
    """

    name: str
    updates: int
    seconds: float
    batch_sec: float
    parameters: int


def measure_training(conf: Path, name: str, stacking: int, codec: str, mean_sec: float, tokens: float) -> Training:
    """One step of a configuration, measured.

    Args:
        conf: training configuration.
        name: of the training.
        stacking: frames per step.
        codec: name of the codec.
        mean_sec: length of an utterance.
        tokens: of its text.

    Returns:
        What it takes.
    """
    content = read_yaml(conf, "train_config")
    rate_hz = RATES_HZ.get(codec, OTHER_RATE_HZ)
    spec = CodecSpec(CODEBOOKS, ENTRIES, rate_hz, 16000)
    options = ModelOptions.of(Namespace(**{**content, "frame_stacking_factor": stacking}))
    frames, letters, prompt = (
        max(2, round(mean_sec * rate_hz)),
        max(2, round(tokens)),
        round(content["prompt_sec"] * rate_hz),
    )
    rows = max(1, round(content["batch_bins"] / (frames * CODEBOOKS + letters)))
    measured = min(rows, ROWS)
    generator = torch.Generator().manual_seed(0)
    sizes = {
        "codes": (ENTRIES, (frames, CODEBOOKS)),
        "text": (VOCABULARY, (letters,)),
        "prompt": (ENTRIES, (prompt, CODEBOOKS)),
    }
    batch = {}
    for key, (most, size) in sizes.items():
        batch[key] = torch.randint(most, (measured, *size), generator=generator)
        batch[f"{key}_lengths"] = torch.full((measured,), size[0])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for a busy core would be measured instead
    try:
        corelm = options.build(spec, VOCABULARY)
        model = ESPnetCodecLMModel(corelm, LossWeights(**content["model_conf"]), content["matmul_precision"] == "bf16")
        optimizer = torch.optim.AdamW(model.parameters())
        began, worked = time.perf_counter(), time.process_time()
        step = measure_step(model, optimizer, batch, content["grad_clip"], torch.autocast("cpu", enabled=False))
        share = min(1.0, (time.process_time() - worked) / (time.perf_counter() - began))
    finally:
        torch.set_num_threads(threads)
    both = step.seconds["forward"] + step.seconds["backward"]
    updates = content["max_epoch"] * content["num_iters_per_epoch"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seconds = share * (both * rows / measured + step.seconds["optimizer"])  # other programs' time is not the training's
    return Training(name, updates, seconds, rows * mean_sec, parameters)


def time_lines(trainings: Sequence[Training], codec: str, side_by_side: int, train_sec: float) -> list[str]:
    """The table of all trainings and how long they take together.

    Args:
        trainings: the base first, if there is one.
        codec: name of the codec.
        side_by_side: trainings that run at a time, but for the base.
        train_sec: seconds of the training set.

    Returns:
        Lines.
    """
    lines = [
        "| training | parameters | updates | speech in a batch | passes over the data | hours |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    # nothing runs beside the base, so it has all threads, and a second one saves less than half of the time
    speed = {one.name: 1 + 0.7 * (side_by_side - 1) if one.name == "base" else 1.0 for one in trainings}
    hours = {one.name: one.updates * one.seconds / speed[one.name] / 3600 for one in trainings}
    for one in trainings:
        passes = one.updates * one.batch_sec / max(train_sec, 1.0)
        sizes = f"{one.parameters / 1e6:.1f} M | {one.updates} | {one.batch_sec:.0f} s"
        lines.append(f"| {one.name} | {sizes} | {passes:.1f} | {hours[one.name]:.2f} |")
    others = [hours[one.name] for one in trainings if one.name != "base"]
    rounds = [max(others[start : start + side_by_side]) for start in range(0, len(others), side_by_side)]
    total = hours.get("base", 0.0) + sum(rounds)
    frames = f"{CODEBOOKS} codebooks and {RATES_HZ.get(codec, OTHER_RATE_HZ):g} frames/s of {codec}"
    return [
        *lines,
        "",
        f"Together about **{total:.1f} h** on this machine's CPU, {side_by_side} side by side, {frames} assumed; "
        "other programs, and the stages before and behind, come on top.",
    ]
