"""Training in two processes (gloo, on this machine) against one process with the same batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fabricated import command
from fabricated_tokens import gpst_command

pytest.importorskip("espnet2")
from espnet_ext.tasks.codec_lm import CodecLMTask

pytestmark = pytest.mark.espnet
ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 2


@pytest.fixture(scope="module")
def ragged(corpus):
    """A table of 5 utterances: of a batch of all of them one process gets 3 and the other 2, of other lengths."""
    shape = corpus / "train" / "shape_ragged"
    lines = (corpus / "train" / "shape").read_text().splitlines(keepends=True)
    shape.write_text("".join(line for line in lines if not line.startswith("s-3")))
    return shape


def options(corpus, ragged, output, *more):
    """A training without chance: no dropout, and no head that draws masks."""
    line = command(corpus, output, "--primary_conf", "dropout=0.0", "--max_epoch", str(EPOCHS), *more)
    line[line.index(str(corpus / "train" / "shape"))] = str(ragged)
    line[line.index("--batch_size") + 1] = "5"
    line[line.index("ar,maskgit")] = "ar"
    at = line.index("maskgit.width=16")
    return [*line[: at - 1], *line[at + 1 :]]


def by_torchrun(line, folder):
    """Both processes started by torchrun, which without "--" takes --local for an option of its own."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--"]
    line = [*line, "--multiprocessing_distributed", "false", "--dist_backend", "gloo"]
    return [start([*launch, "espnet_ext.bin.codec_lm_train", *line], folder, 0, {})]


def by_slurm(line, folder):
    """Each process as srun starts it on one of two nodes, and as local/codec_lm.sh calls it."""
    meet = ["--dist_launcher", "slurm", "--dist_init_method", f"file://{folder}/init", "--dist_backend", "gloo"]
    slurm = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "node-[1-2]"}
    return [
        start(
            ["-m", "espnet_ext.bin.codec_lm_train", *line, "--multiprocessing_distributed", "true", *meet],
            folder,
            rank,
            {**slurm, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0"},
        )
        for rank in range(2)
    ]


def start(arguments, folder, number, environment):
    log = (folder / f"{number}.log").open("w")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
    )


def wait(processes, folder):
    """Wait for all; none outlives the test."""
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * len(processes), "".join(log.read_text()[-2000:] for log in sorted(folder.glob("*.log")))


def differences(one, two):
    """The largest difference of a training loss, of a validation loss, and of a weight."""
    states = [torch.load(folder / "checkpoint.pth", weights_only=False) for folder in (one, two)]
    found = []
    for phase in ("train", "valid"):
        losses = [
            [float(state["reporter"]["stats"][epoch][phase]["loss"]) for epoch in (1, EPOCHS)] for state in states
        ]
        found.append(max(abs(a - b) for a, b in zip(*losses, strict=True)))
    weights = [state["model"] for state in states]
    assert weights[0].keys() == weights[1].keys()
    found.append(max((weights[0][key] - weights[1][key]).abs().max().item() for key in weights[0]))
    return found


def gpst_options(tokens, output, shape):
    """A training of GPST without chance."""
    line = gpst_command(tokens, output, "--primary_conf", "dropout=0.0", "--max_epoch", str(EPOCHS))
    line[line.index(str(tokens / "train" / "shape"))] = str(shape)
    line[line.index("--batch_size") + 1] = "5"
    line[line.index("ar,maskgit")] = "ar"
    at = line.index("maskgit.width=16")
    return [*line[: at - 1], *line[at + 1 :]]


# Cross-entropies are means over codes, which the trainer weights by the codes of each process: the same numbers but for
# rounding. The alignment losses are means over utterances and tokens within a process: 3 and 2 utterances then count
# as their codes do, not one by one.
@pytest.mark.parametrize(
    ("launch", "more", "tolerances"),
    [
        (by_torchrun, ["alignment=0.0", "--model_conf", "frames=0.0", "--prompt_sec", "0"], (1e-5, 1e-5, 1e-5)),
        (by_slurm, ["alignment=1.0"], (5e-3, 1e-1, 5e-3)),
    ],
    ids=["torchrun, cross-entropies, no prompt", "slurm, all losses"],
)
def test_two_processes_train_as_one_with_the_same_batches(corpus, ragged, tmp_path, launch, more, tolerances):
    """The statistics had no dimension to sum over, and a parameter without gradient ended the second batch."""
    more = ["--model_conf", *more]
    processes = launch(options(corpus, ragged, tmp_path / "two", *more), tmp_path)
    try:
        CodecLMTask.main(cmd=options(corpus, ragged, tmp_path / "one", *more))
    finally:
        wait(processes, tmp_path)
    for found, tolerance in zip(differences(tmp_path / "one", tmp_path / "two"), tolerances, strict=True):
        assert found <= tolerance
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def test_two_processes_train_gpst_nearly_as_one(token_corpus, tmp_path):
    """Nearly: means over units are weighted by the codes of each process, which differ from its units."""
    shape = tmp_path / "shape_ragged"
    lines = (token_corpus / "train" / "shape").read_text().splitlines(keepends=True)
    shape.write_text("".join(line for line in lines if not line.startswith("s-3")))
    processes = by_torchrun(gpst_options(token_corpus, tmp_path / "two", shape), tmp_path)
    try:
        CodecLMTask.main(cmd=gpst_options(token_corpus, tmp_path / "one", shape))
    finally:
        wait(processes, tmp_path)
    found = differences(tmp_path / "one", tmp_path / "two")
    assert all(difference <= 2e-3 for difference in found), found
