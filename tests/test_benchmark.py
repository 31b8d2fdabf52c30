"""The benchmark measures what it says, at sizes that take seconds."""

import json
from pathlib import Path

import pytest
import torch

from espnet_ext.benchmark.machine import MachineRates, measure_machine
from espnet_ext.benchmark.race import Contestant, Entry, peer, race
from espnet_ext.bin import benchmark

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"
TINY = {
    "width": 32, "layers": 1, "heads": 2, "local_width": 16, "local_layers": 1, "local_heads": 2, "codebook_size": 16,
    "frames": 4, "rounds": 1,
}  # fmt: skip
KEYS = {
    "strategy", "s", "batch", "precision", "compile", "frames", "frames_per_second", "rtf", "ttfa_ms", "peak_mib",
    "local_passes_per_frame", "floor_ratio", "ratio_to",
}  # fmt: skip


def command(*more: str) -> list[str]:
    return [word for name, value in TINY.items() for word in (f"--{name}", str(value))] + list(more)


def test_every_cell_is_a_line_of_json_and_a_row(tmp_path, capsys):
    files = [tmp_path / "new" / name for name in ("cells.jsonl", "cells.md", "cells.png")]
    options = ["--strategy", "parallel,local_maskgit", "--s", "2", "--batch", "1,2", "--precision", "reference,int8"]
    outputs = [
        word for name, file in zip(("json", "table", "plot"), files, strict=True) for word in (f"--{name}", str(file))
    ]
    benchmark.main(command(*options, *outputs))
    cells = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert len(cells) == 8 and all(set(cell) >= KEYS for cell in cells)
    asked = {
        (strategy, batch, kind)
        for strategy in ("parallel", "local_maskgit")
        for batch in (1, 2)
        for kind in ("reference", "int8")
    }
    assert {(cell["strategy"], cell["batch"], cell["precision"]) for cell in cells} == asked
    for cell in cells:
        assert (
            cell["frames_per_second"] > 0 and cell["floor_ratio"] > 0 and cell["ttfa_ms"] > 0 and cell["peak_mib"] > 50
        )
        assert 0.9 < sum(cell["share"][part] for part in ("primary", "local", "sampling")) < 1.1
        # frames per step: a pass of the parallel heads, three rounds of MaskGIT
        assert cell["local_passes_per_frame"] == (0.5 if cell["strategy"] == "parallel" else 1.5)
    assert len(files[1].read_text().splitlines()) == 4 + 2 + 8 and files[2].stat().st_size > 1000
    assert capsys.readouterr().out.count("ms/frame") == 8


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--strategy", "best"], "strategy must be one of"),
        (["--precision", "int8:fast"], "precision must be one of"),
        (["--precision", "fp8"], "precision must be one of"),
        (["--s", "0"], "s must be whole numbers of at least 1, got '0'"),
        (["--s", "3"], "frames must be a multiple of s = 3, got 4"),
        (["--peers", "llama"], "peers must be one of"),
        (["--rounds", "0"], "rounds must be at least 1"),
    ],
)
def test_bad_options_are_one_line(options, told):
    with pytest.raises(ValueError, match=told):
        benchmark.main(command(*options, "--peers_dir", str(PEERS)) if "--peers" in options else command(*options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line():
    with pytest.raises(ValueError, match="device must be cpu where there is no GPU that torch can use, got cuda"):
        benchmark.main(command("--device", "cuda"))


def test_a_peer_that_is_not_installed_says_how_to_install_it(tmp_path):
    (tmp_path / "peer_moshi.py").touch()
    with pytest.raises(FileNotFoundError, match="install the peer with bash .*install.sh moshi"):
        peer("moshi", None, tmp_path, {})


def test_who_fails_is_left_out_with_the_reason_and_the_others_go_on(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no weights today')", encoding="utf-8")
    sizes = {**{name: value for name, value in TINY.items() if name not in ("frames", "rounds")}, "codebooks": 2}
    sizes |= {"batch": 1, "threads": 1, "device": "cpu", "top_k": 1, "strategy": "parallel", "s": 1}
    sizes |= {"precision": "reference", "native": False, "compile": False, "graphs": False}
    entries = [Entry("ours", benchmark.OURS, sizes), Entry("broken", (benchmark.sys.executable, str(script)), sizes)]
    results = race(entries, context=2, frames=3, rounds=2)
    assert results["broken"] == "broken: no weights today"
    assert len(results["ours"].cpu_seconds) == 2 and results["ours"].seconds("wall") > 0


def test_a_process_ends_with_its_contestant():
    sizes = {"threads": 1}
    with pytest.raises(RuntimeError, match="silent: ended without a word"):
        Contestant(Entry("silent", (benchmark.sys.executable, "-c", "pass"), sizes))


def test_the_floor_is_the_slower_one_of_reading_and_multiplying():
    machine = MachineRates(bytes_per_second=10.0, flops_per_second=100.0)
    assert machine.floor_seconds(20.0, 100.0) == 2.0 and machine.floor_seconds(20.0, 500.0) == 5.0
    measured = measure_machine("cpu", 1, "cpu")
    assert measured.bytes_per_second > 1e8 and measured.flops_per_second > 1e8
