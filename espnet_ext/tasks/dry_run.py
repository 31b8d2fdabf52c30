"""`codec_lm_train --dry_run true`: what a training will cost, from one step on its largest batch; no training."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from espnet2.samplers.build_batch_sampler import build_batch_sampler
from espnet2.tasks.abs_task import AbsTask
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.train.distributed_utils import DistributedOption
from espnet2.utils.types import str_or_none
from torch import Tensor

from espnet_ext.data.datadir import read_scp
from espnet_ext.data.inputs import Inputs
from espnet_ext.data.preprocess import collate
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.tasks.cost import Step, count_parameters, measure_step, padded_positions
from espnet_ext.tasks.espnet_model import ESPnetCodecLMModel

REPORT = "dry_run.json"
SHAPE = "UTTERANCES,FRAMES,TOKENS[,BATCHES]"  # tokens of the text, or semantic units


@dataclass(frozen=True)
class Batch:
    """The largest batch, or the part of it that is measured.

    Attributes:
        source: where it is from.
        tensors: arguments of the model.
        utterances: of the whole batch; `tensors` may hold fewer.
        batches: of an epoch; 0 if not known.
        mean_to_largest: padded size of the mean batch by that of the largest.
    """

    source: str
    tensors: dict[str, Tensor]
    utterances: int
    batches: int
    mean_to_largest: float


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """The options of a dry run, besides ESPnet's `--dry_run`."""
    group.add_argument(
        "--dry_run_shape",
        type=str_or_none,
        default=None,
        help=f"Random batch instead of data: {SHAPE}; TOKENS are semantic units with corelm gpst",
    )
    group.add_argument(
        "--dry_run_utterances", type=int, default=None, help="Measure so many of the batch, and scale to all of them"
    )
    group.add_argument(
        "--dry_run_tflops", type=float, default=50.0, help="Assumed sustained speed of a GPU for the hours from FLOPs"
    )


def random_batch(shape: str, inputs: Inputs, most: int | None) -> Batch:
    """A batch of random ids, all utterances of the same length.

    Args:
        shape: `--dry_run_shape`.
        inputs: of the model, which know the numbers of ids, and the length of speaker prompts.
        most: utterances to make at most.

    Returns:
        The batch.

    Raises:
        UserError: if the shape is not three or four positive numbers.
    """
    words = shape.split(",")
    if len(words) not in (3, 4) or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UserError(f"dry_run_shape must be {SHAPE}, positive whole numbers, got {shape!r}")
    utterances, frames, tokens, *batches = map(int, words)
    rows = min(utterances, most or utterances)
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, (ids, size) in inputs.shapes(frames, tokens).items():
        tensors[name] = torch.randint(ids, (rows, *size), generator=generator)
        tensors[f"{name}_lengths"] = torch.full((rows,), size[0])
    return Batch(f"random ids, dry_run_shape {shape}", tensors, utterances, batches[0] if batches else 0, 1.0)


def cropped(shapes: Sequence[Mapping[str, list[int]]], frames: int) -> list[dict[str, list[int]]]:
    """The shape tables as training sees them: of a longer utterance only so many frames, and its share of units.

    Args:
        shapes: utterance → shape, one table per shape file; that of the codes has two numbers, (T, N).
        frames: longest utterance; 0 for no limit.

    Returns:
        Tables of lengths.

    >>> cropped([{"a": [40]}, {"a": [100, 8]}], 50)
    [{'a': [20]}, {'a': [50]}]
    """
    codes = next((table for table in shapes if all(len(shape) == 2 for shape in table.values())), None)
    share = {u: min(1.0, frames / shape[0]) for u, shape in codes.items()} if codes is not None and frames else {}
    return [{u: [round(shape[0] * share.get(u, 1.0))] for u, shape in table.items()} for table in shapes]


def largest_batch(task: type[AbsTask], args: argparse.Namespace, inputs: Inputs) -> Batch:
    """The batch of the training data with the most frames and tokens when padded.

    Args:
        task: builds the dataset.
        args: parsed options.
        inputs: of the model.

    Returns:
        The batch; of `--dry_run_utterances` its longest utterances.

    Raises:
        UserError: if there are no data.
    """
    if not args.train_shape_file or args.multiple_iterator:
        raise UserError(
            f"dry_run must have train_shape_file, without multiple_iterator, or dry_run_shape {SHAPE}, "
            f"got {args.train_shape_file} and multiple_iterator {args.multiple_iterator}"
        )
    options = task.build_iter_options(args, DistributedOption(), "train")
    sampler = build_batch_sampler(
        type=options.batch_type,
        shape_files=options.shape_files,
        fold_lengths=args.fold_length,
        batch_size=options.batch_size,
        batch_bins=options.batch_bins,
        sort_in_batch=args.sort_in_batch,
        sort_batch=args.sort_batch,
        drop_last=args.drop_last_iter,
        min_batch_size=args.min_batch_size,
    )
    batches = [list(batch) for batch in sampler]
    shapes = [{u: [int(n) for n in s.split(",")] for u, s in read_scp(path).items()} for path in options.shape_files]
    shapes = cropped(shapes, round(args.crop_sec * inputs.spec.frame_rate_hz))
    sizes = padded_positions(batches, shapes)
    names = batches[sizes.index(max(sizes))]
    longest = sorted(names, key=lambda name: -sum(table[name][0] for table in shapes))
    dataset = task.build_dataset(args, options, set(names))
    tensors = collate([dataset[name] for name in longest[: args.dry_run_utterances]])[1]
    mean = sum(sizes) / len(sizes) / max(sizes)
    return Batch(", ".join(options.shape_files), tensors, len(names), len(batches), mean)


def report(args: argparse.Namespace, model: ESPnetCodecLMModel, batch: Batch, step: Step) -> dict[str, Any]:
    """Everything dry_run.json says: what was measured, and what follows for the whole batch and the training.

    Args:
        args: parsed options.
        model: what was measured.
        batch: on what.
        step: its costs.

    Returns:
        Names and values.
    """
    tensors, corelm = batch.tensors, model.corelm
    rows, tokens = len(tensors["codes"]), tensors[f"{corelm.reads}_lengths"]
    scale = batch.utterances / rows
    steps = corelm.layout.num_steps(tensors["codes_lengths"] + 1)
    # the optimizer has the same work to do for any batch
    seconds = scale * (step.seconds["forward"] + step.seconds["backward"]) + step.seconds["optimizer"]
    flops = step.flops * scale
    memory = {**step.memory, "saved_for_backward": round(step.memory["saved_for_backward"] * scale)}
    cuda = args.ngpu > 0
    return {
        "parameters": {"total": sum(count_parameters(model).values()), "by_part": count_parameters(model)},
        "measured_batch": {
            "source": batch.source,
            "utterances": rows,
            "of_utterances": batch.utterances,
            "scaled_linearly_by": scale,
            "frames": int(tensors["codes_lengths"].sum()),
            "longest_frames": tensors["codes"].shape[1],
            "steps": int(steps.sum()),
            "tokens": int(tokens.sum()),
            "prompt_frames": int(tensors["prompt_lengths"].sum()) if "prompt" in tensors else 0,
            "codes": int(tensors["codes_lengths"].sum()) * corelm.spec.num_codebooks,
        },
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "measured_seconds": step.seconds,
        "measured_peak_bytes": step.peak_bytes,
        "measured_peak_is": "most allocated on the GPU" if cuda else "growth of resident memory, up to the allocator",
        "batch": {"seconds": seconds, "flops": flops},
        "memory_bytes": {**memory, "total": sum(memory.values())},
        "memory_is": "what is kept at the end of the forward pass, with fused attention; temporaries come on top",
        "training": training_cost(args, batch, seconds, flops),
    }


def training_cost(args: argparse.Namespace, batch: Batch, seconds: float, flops: float) -> dict[str, Any]:
    """Batches, epochs and the hours they take on one device, without validation.

    Args:
        args: parsed options.
        batch: the largest batch.
        seconds: that it takes.
        flops: that it takes.

    Returns:
        Hours as if every batch were the largest, and hours in proportion to the batches' padded sizes; no hours if the
        number of batches is not known.
    """
    batches = args.num_iters_per_epoch or batch.batches
    cost: dict[str, Any] = {"epochs": args.max_epoch, "batches_per_epoch": batches, "accum_grad": args.accum_grad}
    if batches:
        times, share = batches * args.max_epoch, batch.mean_to_largest
        at_speed = times * flops / (args.dry_run_tflops * 1e12) / 3600
        cost |= {"mean_batch_to_largest": share, "hours_at_most": times * seconds / 3600}
        cost |= {"hours": times * seconds * share / 3600, "assumed_tflops": args.dry_run_tflops}
        cost |= {"hours_at_assumed_tflops_at_most": at_speed, "hours_at_assumed_tflops": at_speed * share}
    return cost


def summary(content: Mapping[str, Any]) -> Sequence[str]:
    """The lines worth reading of a report."""
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in content["parameters"]["by_part"].items())
    measured, memory, training = content["measured_batch"], content["memory_bytes"], content["training"]
    of, scale, seconds = measured["of_utterances"], measured["scaled_linearly_by"], content["batch"]["seconds"]
    lines = [
        f"parameters: {content['parameters']['total'] / 1e6:.1f} M ({parts})",
        f"largest batch: {of} utterances of {measured['source']}",
        f"measured: {measured['utterances']} of them with {measured['frames']} frames in {measured['steps']} steps, "
        f"scaled by {scale:g}",
        f"a step of training: {seconds:.2f} s on {content['device']}, {content['batch']['flops'] / 1e12:.3f} TFLOP",
        f"memory to keep: {memory['total'] / 1e9:.2f} GB, of it for the backward pass "
        f"{memory['saved_for_backward'] / 1e9:.2f} GB",
        f"memory measured: {content['measured_peak_bytes'] / 1e9:.2f} GB ({content['measured_peak_is']})",
    ]
    if "hours" in training:
        lines.append(
            f"{training['epochs']} epochs of {training['batches_per_epoch']} batches: {training['hours']:.1f} h on "
            f"this device, at most {training['hours_at_most']:.1f} h; {training['hours_at_assumed_tflops']:.1f} h at "
            f"{training['assumed_tflops']:g} TFLOP/s, at most {training['hours_at_assumed_tflops_at_most']:.1f} h"
        )
    return lines


def dry_run(task: type[AbsTask], args: argparse.Namespace, inputs: Inputs) -> dict[str, Any]:
    """Measure one training step and write `dry_run.json`, nothing else, into the output directory.

    Args:
        task: builds model, optimizer and data.
        args: parsed options; at most one GPU is used.
        inputs: of the model.

    Returns:
        Content of the file.
    """
    if args.dry_run_utterances is not None and args.dry_run_utterances < 1:
        raise UserError(f"dry_run_utterances must be at least 1, got {args.dry_run_utterances}")
    if not args.dry_run_tflops > 0:
        raise UserError(f"dry_run_tflops must be positive, got {args.dry_run_tflops:g}")
    set_all_random_seed(args.seed)
    # in the largest batch every utterance stands behind its prompt; the given shape is that of whole utterances
    args.join_prompt = float(args.join_prompt > 0 and args.dry_run_shape is None)
    if args.dry_run_shape is None:
        batch = largest_batch(task, args, inputs)
    else:
        batch = random_batch(args.dry_run_shape, inputs, args.dry_run_utterances)
    device = "cuda" if args.ngpu > 0 else "cpu"
    model = task.build_model(args).to(dtype=getattr(torch, args.train_dtype), device=device)
    optimizer = task.build_optimizers(args, model=model)[0]
    tensors = {name: values.to(device) for name, values in batch.tensors.items()}
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=args.use_amp and args.ngpu > 0)
    step = measure_step(model, optimizer, tensors, args.grad_clip, autocast)
    content = report(args, model, batch, step)
    for line in summary(content):
        logging.info(line)
    with atomic_path(Path(args.output_dir) / REPORT) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content
