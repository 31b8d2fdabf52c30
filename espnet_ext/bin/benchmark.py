"""Decoding speed of every strategy on this machine, beside public peers and the floor that the hardware sets.

Models have the asked sizes and random weights; no frame can be the last. Every cell and every peer runs in a process of
its own, they take turns, and the median round counts. The floor is the longer one of reading the weights of a step once
and of its multiplications, at the rates that the tool measures at its start.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_ext.benchmark.race import PEERS, Entry, Times, peer, race
from espnet_ext.bin import run
from espnet_ext.errors import UserError
from espnet_ext.options import check_choice, check_number
from espnet_ext.scoring.environment import environment
from espnet_ext.storage.atomic import atomic_path

if TYPE_CHECKING:
    from espnet_ext.benchmark.machine import MachineRates

SIZES = {
    "width": 768, "layers": 12, "heads": 12, "local_width": 256, "local_layers": 3, "local_heads": 4,
    "codebooks": 8, "codebook_size": 1024,
}  # fmt: skip
OURS = (sys.executable, "-m", "espnet_ext.benchmark.ours")


def names_of(text: str) -> list[str]:
    """What stands between the commas."""
    return text.split(",")


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--strategy", type=names_of, default=["parallel", "local_ar", "local_maskgit"], help="Names, by commas"
    )
    parser.add_argument("--s", type=names_of, default=["1"], help="Frames of a step, numbers by commas")
    parser.add_argument("--batch", type=names_of, default=["1"], help="Rows, numbers by commas")
    parser.add_argument("--precision", type=names_of, default=["reference", "float32", "fp16", "int8"],
                        help="float32, fp16, bf16, int8, auto; reference is the model as it was trained; with :native "
                        "behind it, as in int8:native, in the native kernel, with :compile compiled, with :eager "
                        "on a GPU without CUDA graphs")  # fmt: skip
    parser.add_argument(
        "--peers", type=names_of, default=[], help=f"Among {', '.join(PEERS)}; see benchmarks/peers/README.md"
    )
    parser.add_argument(
        "--peer_python", type=names_of, default=[], help="name=interpreter, for peers installed elsewhere"
    )
    parser.add_argument("--peers_dir", type=Path, default=Path("benchmarks/peers"))
    parser.add_argument("--frames", type=int, default=24, help="Frames that are timed")
    parser.add_argument("--context", type=int, default=2, help="Frames in front of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", default="all", choices=["all", "local"], help="local: the local transformer alone")
    parser.add_argument("--clock", default="cpu", choices=["cpu", "wall"],
                        help="Process time, which other work disturbs least, or wall time")  # fmt: skip
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--peer_dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--top_k", type=int, default=20, help="Of the sampling; 1 is greedy")
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--at_once", type=int, default=6, help="Cells that take turns; the peers are in every group")
    parser.add_argument("--json", type=Path, help="One JSON object per cell and line")
    parser.add_argument("--table", type=Path, help="Markdown")
    parser.add_argument("--plot", type=Path, help="Image")
    parser.add_argument("--log_level", default="WARNING")
    return parser


def cells(args: argparse.Namespace) -> list[Entry]:
    """Our entries.

    Args:
        args: the command's options.

    Returns:
        One per strategy, S, batch and precision.

    Raises:
        UserError: naming the option that is wrong.
    """
    from espnet_ext.decoding import strategies
    from espnet_ext.fast import FastOptions

    entries = []
    for strategy, s, batch, kind in product(args.strategy, args.s, args.batch, args.precision):
        check_choice("strategy", strategy, tuple(strategies))
        precision, *flags = kind.split(":")
        for flag in flags:
            check_choice("precision", flag, ("native", "compile", "eager"))
        if precision != "reference":
            FastOptions(precision, native="native" in flags, compile="compile" in flags)
        sizes = {
            **_shared(args, _whole("batch", batch)), "strategy": strategy, "s": _whole("s", s), "precision": precision,
            "native": "native" in flags, "compile": "compile" in flags, "graphs": "eager" not in flags,
            # only whole steps are made
            "first_frames": _whole("s", s),
        }  # fmt: skip
        check_number("frames", args.frames, least=int(s), whole=True)
        if args.frames % int(s):
            raise UserError(f"frames must be a multiple of s = {s}, got {args.frames}")
        entries.append(Entry(f"{strategy} S={s} batch {batch} {kind}", OURS, sizes))
    return entries


def _whole(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{name} must be whole numbers of at least 1, got {text!r}")
    return int(text)


def _shared(args: argparse.Namespace, batch: int) -> dict[str, Any]:
    told = {name: getattr(args, name) for name in (*SIZES, "device", "top_k", "part")}
    return {**told, "threads": args.num_threads, "batch": batch}


def peer_entries(args: argparse.Namespace, batch: int) -> list[Entry]:
    """Those of the peers, for one batch.

    Args:
        args: the command's options.
        batch: rows.

    Returns:
        The entries.

    Raises:
        UserError: if there is no such peer.
        FileNotFoundError: if one is not installed.
    """
    pythons = dict(item.split("=", 1) for item in args.peer_python)
    sizes = {**_shared(args, batch), "dtype": args.peer_dtype}
    return [peer(name, pythons.get(name), args.peers_dir, sizes) for name in args.peers]


def measure(args: argparse.Namespace, machine: MachineRates) -> Iterator[dict[str, Any]]:
    """The cells as plain values, group by group.

    Args:
        args: the command's options.
        machine: its limits.

    Yields:
        A cell, ours or a peer's.
    """
    from espnet_ext.benchmark.ours import FRAME_RATE_HZ
    from espnet_ext.benchmark.table import cell_of

    ours = cells(args)
    for batch in dict.fromkeys(entry.sizes["batch"] for entry in ours):
        of_batch = [entry for entry in ours if entry.sizes["batch"] == batch]
        others = peer_entries(args, batch)
        for start in range(0, len(of_batch), args.at_once):
            group = [*of_batch[start : start + args.at_once], *others]
            results = race(group, args.context, args.frames, args.rounds)
            times = {name: result for name, result in results.items() if isinstance(result, Times)}
            peers = {entry.name: times[entry.name] for entry in others if entry.name in times}
            for entry in group:
                if entry.name in times and not (entry.is_peer and start):
                    yield cell_of(entry, times[entry.name], peers, args.frames, args.clock, machine, FRAME_RATE_HZ)


def tell(line: str) -> None:
    """A line for the user, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(cmd: Sequence[str] | None = None) -> None:
    """Measure as the command line says.

    Args:
        cmd: command line without the program's name; None for the process's own.

    Raises:
        UserError: if an option is wrong, or nothing could be measured.
    """
    args = get_parser().parse_args(cmd)

    from espnet_ext.benchmark.machine import describe, measure_machine
    from espnet_ext.data.encoding import check_device

    logging.basicConfig(level=args.log_level, format="%(levelname)s: %(message)s")
    for name in ("rounds", "num_threads", "at_once", "context"):
        check_number(name, getattr(args, name), least=1, whole=True)
    check_device(args.device)
    cells(args)
    for batch in args.batch:  # what is not installed is said before any work
        peer_entries(args, int(batch))
    machine = measure_machine(args.device, args.num_threads, args.clock)
    limits = f"reads {machine.bytes_per_second / 1e9:.1f} GB/s, multiplies {machine.flops_per_second / 1e9:.0f} GFLOP/s"
    tell(f"{describe(args.device)}: {limits} with {args.num_threads} threads ({args.clock} time)")
    found = []
    for cell in measure(args, machine):
        found.append(cell)
        ratios = ", ".join(f"{ratio} x {name}" for name, ratio in cell["ratio_to"].items())
        tell(f"{1000 / cell['frames_per_second']:8.2f} ms/frame  {cell['name']}  {ratios}")
    if not found:
        raise UserError("nothing could be measured: see the warnings above")
    _write(args, found, f"{describe(args.device)}: {limits}")


def _write(args: argparse.Namespace, found: list[dict[str, Any]], machine: str) -> None:
    from espnet_ext.benchmark.table import as_markdown, plot, write_json

    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, [{**cell, "machine": machine, "device": args.device} for cell in found])
    if args.table:
        command = " ".join(["python -m espnet_ext.bin.benchmark", *sys.argv[1:]])
        facts = environment()
        head = f"`{command}`\n\n{machine}; {args.clock} time, {args.num_threads} threads, "
        head += f"{args.context} frames of context, median of {args.rounds} rounds; "
        head += f"{facts['date'][:10]}, {facts['Git hash'][:10]}.\n\n"
        args.table.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(args.table) as temporary:
            temporary.write_text(head + as_markdown(found), encoding="utf-8")
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(args.plot, found)


if __name__ == "__main__":
    run(main)
