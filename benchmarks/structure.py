"""How a newcomer finds the package: rooms, arrows between them, the way from the command to the draw of a code, twins.

python benchmarks/structure.py --out benchmarks/results/structure_after
python benchmarks/structure.py --root OTHER_CHECKOUT --out benchmarks/results/structure_before    # of 02ee457

The same script looks at any revision: the sources are read, and one sentence is spoken by the revision's own commands.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import soundfile

PACKAGE = "espnet_ext"
DRAWS = ("categorical", "_draw")  # methods of the sampler, the first of which calls the second where there is one
SHORTEST_RUN = 6  # lines that are the same before two places are called twins
SMALL = ["--primary_conf", "width=32", "--primary_conf", "layers=1", "--local", "ar", "--local_conf", "width=16"]
ROWS = {
    "modules_in_the_root": "modules in the root",
    "rooms": "rooms (entries of the package directory)",
    "arrows": "arrows between rooms",
    "circles": "groups of rooms that import each other in circles",
    "functions_to_the_draw": "functions from the command to the draw of a code",
    "files_to_the_draw": "files from the command to the draw of a code",
    "executed_lines": "lines executed for one sentence",
    "executed_files": "files that they are in",
    "lines_of_executed_files": "lines of these files",
    "lines": "lines of the package",
    "lines_without_testing": "lines without the contracts for plug-ins",
    "twins": f"repeated runs of {SHORTEST_RUN} lines or more",
    "lines_of_twins": "lines of these runs",
}


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--root", type=Path, default=here, help="checkout to look at; default: this one")
    parser.add_argument("--out", type=Path, help="results, without suffix: .json and .md are written; default: printed")
    parser.add_argument("--speak", type=Path, help=argparse.SUPPRESS)  # the second process: folder to work in
    return parser


# --- what the sources say -------------------------------------------------------------------------------------------


def sources_of(root: Path) -> dict[Path, str]:
    """Every module of the package: path inside the package → text."""
    folder = root / PACKAGE
    return {path.relative_to(folder): path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}


def room_of(path: Path) -> str:
    """The entry of the package directory that a module is or lies in."""
    return path.parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Every name that a module imports, wherever the import stands; of `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows_of(sources: Mapping[Path, str]) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    rooms = {room_of(path) for path in sources} - {"__init__"}
    arrows = set()
    for path, text in sources.items():
        names = [name.split(".") for name in imported(ast.parse(text)) if name.startswith(f"{PACKAGE}.")]
        arrows |= {(room_of(path), name[1]) for name in names if name[1] in rooms and room_of(path) != "__init__"}
    return {(one, other) for one, other in arrows if one != other}


def circles_of(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of rooms each of which reaches all others of the group along the arrows."""
    reached = {room: {room} for arrow in arrows for room in arrow}
    grown = True
    while grown:
        grown = False
        for one, other in arrows:
            if not reached[other] <= reached[one]:
                reached[one] |= reached[other]
                grown = True
    groups = {tuple(sorted(other for other in reached[one] if one in reached[other])) for one in reached}
    return sorted(list(group) for group in groups if len(group) > 1)


def telling_lines(text: str) -> list[tuple[int, str]]:
    """Number and text of the lines that say something: no comments, docstrings, imports or lone brackets."""
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or (is_docstring and isinstance(node.value.value, str)):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = [(number, line.split("  # ")[0].strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [
        (number, line)
        for number, line in lines
        if number not in left_out and not line.startswith("#") and any(map(str.isalnum, line))
    ]


def twins_of(sources: Mapping[Path, str]) -> list[dict[str, Any]]:
    """Runs of lines that stand somewhere else as well, each with the first place where they stand."""
    first: dict[tuple[str, ...], tuple[Path, int]] = {}
    found = []
    lines = {path: telling_lines(text) for path, text in sources.items()}
    for path, own in lines.items():
        at = 0
        while at + SHORTEST_RUN <= len(own):
            place = first.setdefault(tuple(line for _, line in own[at : at + SHORTEST_RUN]), (path, at))
            other, begin = lines[place[0]], place[1]
            if place == (path, at) or (place[0] == path and begin + SHORTEST_RUN > at):
                at += 1
                continue
            length = SHORTEST_RUN
            while at + length < len(own) and begin + length < (at if other is own else len(other)):
                if own[at + length][1] != other[begin + length][1]:
                    break
                length += 1
            where = [f"{path}:{own[at][0]}", f"{place[0]}:{other[begin][0]}"]
            found.append({"lines": length, "places": where})
            at += length
    return found


def structure_of(root: Path) -> dict[str, Any]:
    """What can be told from the sources alone."""
    sources = sources_of(root)
    arrows, twins = arrows_of(sources), twins_of(sources)
    loose = [path for path in sources if len(path.parts) == 1 and path.stem != "__init__"]
    lengths = {path: len(text.splitlines()) for path, text in sources.items()}
    return {
        "modules_in_the_root": len(loose),
        "rooms": len({room_of(path) for path in sources} - {"__init__"}),
        "arrows": len(arrows),
        "circles": len(circles_of(arrows)),
        "lines": sum(lengths.values()),
        "lines_without_testing": sum(length for path, length in lengths.items() if room_of(path) != "testing"),
        "twins": len(twins),
        "lines_of_twins": sum(twin["lines"] for twin in twins),
        "details": {
            "circles": circles_of(arrows),
            "arrows": {
                one: " ".join(sorted(b for a, b in arrows if a == one)) for one in sorted({a for a, _ in arrows})
            },
            "twins": twins,
        },
    }


# --- what happens while a sentence is spoken ------------------------------------------------------------------------


def make_data(folder: Path) -> list[str]:
    """Write a data directory of three recordings.

    Args:
        folder: to work in.

    Returns:
        Names of the utterances.
    """
    names = ["s-0", "s-1", "s-2"]
    for index, name in enumerate(names):
        clock = np.arange(16000 + 800 * index) / 16000
        tone = sum(np.sin(2 * np.pi * 110 * k * clock) / k for k in range(1, 30))
        noise = np.random.default_rng(index).standard_normal(len(clock))
        soundfile.write(folder / f"{name}.wav", 0.1 * tone + 0.01 * noise, 16000)
    for file, values in (
        ("wav.scp", [str(folder / f"{name}.wav") for name in names]),
        ("text", ["abcd abc", "abba", "cab dab"]),
        ("utt2spk", ["s"] * len(names)),
    ):
        (folder / "data").mkdir(exist_ok=True)
        lines = [f"{name} {value}\n" for name, value in zip(names, values, strict=True)]
        (folder / "data" / file).write_text("".join(lines))
    return names


def command(name: str) -> Any:
    """The `main` of a command of the package; every revision has it there."""
    module = __import__(f"{PACKAGE}.bin.{name}", fromlist=["main"])
    return module.main


def make_experiment(folder: Path) -> list[str]:
    """Train a tiny model for one epoch.

    Args:
        folder: to work in.

    Returns:
        The command line with which it says one sentence.
    """
    names = make_data(folder)
    codec, codes, exp = folder / "codec", folder / "codes", folder / "exp"
    wavs = ["--wav_scp", str(folder / "data" / "wav.scp")]
    command("codec_fit")([*wavs, "--codec", "world_vq", "--codec_conf", "codebook_size=8", "--out", str(codec)])
    info = ["--codec_info", str(codec / "codec_info.yaml")]
    command("codec_tokens")([*info, "--data_dir", str(folder / "data"), "--out", str(codes)])
    (folder / "tokens.txt").write_text("\n".join(["<unk>", "<space>", *"abcd", "<eos>"]) + "\n")
    (folder / "shape").write_text("".join(f"{name} 25,8\n" for name in names))
    train = [*SMALL, *info, "--output_dir", str(exp), "--token_list", str(folder / "tokens.txt"), "--ngpu", "0"]
    train += ["--max_epoch", "1", "--batch_type", "unsorted", "--batch_size", "3", "--num_workers", "0"]
    train += ["--use_matplotlib", "false", "--use_tensorboard", "false"]
    for part in ("train", "valid"):
        for file, key, kind in (
            ("text", "text", "text"),
            ("codes.scp", "codes", "kaldi_ark"),
            ("prompt.scp", "prompt", "kaldi_ark"),
        ):
            train += [f"--{part}_data_path_and_name_and_type", f"{codes / file},{key},{kind}"]
        train += [f"--{part}_shape_file", str(folder / "shape")]
    command("codec_lm_train")(train)
    for file in ("text", "prompt.scp"):  # one sentence of it
        first = (codes / file).read_text().splitlines()[0]
        (codes / file).write_text(f"{first}\n")
    (codes / ".made.json").unlink(missing_ok=True)  # which vouches for what was there before
    return ["--exp", str(exp), "--data_dir", str(codes), "--output_dir", str(folder / "out"), "--decoding", "local_ar"]


class Trace:
    """Lines of functions of the package that are executed, and the first stack of calls that draws a code.

    Args:
        folder: of the package.

    Attributes:
        lines: file → numbers of executed lines.
        stack: functions from the outermost to the draw: (file, name).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = f"{folder}{os.sep}"
        self.lines: dict[str, set[int]] = {}
        self.stack: list[tuple[str, str]] = []

    def _is_ours(self, code: CodeType) -> bool:
        # the bodies of modules and classes run when they are imported: only functions are optimised code
        return code.co_filename.startswith(self.folder) and bool(code.co_flags & 0x1)

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        """The tracer of a frame, as sys.settrace wants it."""
        code = frame.f_code
        if not self._is_ours(code):
            return None
        lines = self.lines.setdefault(code.co_filename, set())
        first = not self.stack or self.stack[-1][1].endswith(DRAWS[0])
        if code.co_name in DRAWS and code.co_filename.endswith("sampling.py") and first:
            self.stack.clear()
            caller: FrameType | None = frame
            while caller is not None:
                if self._is_ours(caller.f_code) and not caller.f_code.co_name.startswith("<"):
                    self.stack.insert(0, (caller.f_code.co_filename, caller.f_code.co_qualname))
                caller = caller.f_back

        def line(frame: FrameType, event: str, argument: object) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return line

        return line

    def report(self) -> dict[str, Any]:
        """Counts, and the stack by name."""
        executed = {file: lines for file, lines in self.lines.items() if lines}
        lengths = [len(Path(file).read_text(encoding="utf-8").splitlines()) for file in executed]
        steps = [f"{file.removeprefix(self.folder)}:{name}" for file, name in self.stack]
        return {
            "functions_to_the_draw": len(set(self.stack)),
            "files_to_the_draw": len({file for file, _ in self.stack}),
            "executed_lines": sum(map(len, executed.values())),
            "executed_files": len(executed),
            "lines_of_executed_files": sum(lengths),
            "details": {
                "way_to_the_draw": steps,
                "executed": {file.removeprefix(self.folder): len(lines) for file, lines in sorted(executed.items())},
            },
        }


def speak(root: Path, folder: Path) -> None:
    """Say one sentence with a model that is made here, and write what was executed to speak.json.

    Args:
        root: checkout whose package this process imports.
        folder: to work in.
    """
    package = Path(__import__(PACKAGE).__file__).parent
    assert package == root / PACKAGE, f"{package} is not that of {root}"
    words = make_experiment(folder)
    main, trace = command("codec_lm_inference"), Trace(package)
    sys.settrace(trace)
    try:
        main(words)
    finally:
        sys.settrace(None)
    assert trace.stack, "no code was drawn"
    (folder / "speak.json").write_text(json.dumps(trace.report()))


def spoken_by(root: Path) -> dict[str, Any]:
    """What is executed when the package of a checkout says one sentence, in a process of its own.

    Args:
        root: the checkout.

    Returns:
        Counts and details.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        line = [sys.executable, __file__, "--root", str(root), "--speak", folder]
        subprocess.run(line, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads((Path(folder) / "speak.json").read_text())
    return found


def table(found: Mapping[str, Any]) -> str:
    """Markdown of the counts."""
    return "\n".join(["| what | count |", "|---|---:|", *(f"| {row} | {found[key]:,} |" for key, row in ROWS.items())])


def main(cmd: Sequence[str] | None = None) -> None:
    """Count.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    args = get_parser().parse_args(cmd)
    root = args.root.resolve()
    if args.speak is not None:
        speak(root, args.speak)
        return
    if not (root / PACKAGE / "__init__.py").is_file():
        sys.exit(f"error: root must be a checkout with {PACKAGE}/, got {args.root}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    read, spoken = structure_of(root), spoken_by(root)
    found = {**read, **spoken, "details": {**read["details"], **spoken["details"]}}
    found = {key: found[key] for key in (*ROWS, "details")}
    text = json.dumps(found, indent=1)
    if args.out is None:
        sys.stdout.write(f"{text}\n{table(found)}\n")
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(f"{text}\n")
    args.out.with_suffix(".md").write_text(f"{table(found)}\n")


if __name__ == "__main__":
    main()
