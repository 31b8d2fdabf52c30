"""The codec Fréchet distance against torchmetrics, which the published evaluation uses, and against scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from test_score_stage import ToyCodec

from espnet_ext.data.ark import codes_writer
from espnet_ext.data.datadir import write_scp
from espnet_ext.scoring.measures.bootstrap import Resamples
from espnet_ext.scoring.measures.frame_distance import frame_distances
from espnet_ext.scoring.measures.frechet import frame_statistics, frechet_distance
from espnet_ext.scoring.system import load_reference

SIZES = [(400, 300, 6), (5000, 4000, 108), (900, 1200, 32), (60, 50, 108)]  # the last has singular covariances


def two_sets(first: int, second: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(width)
    mixing = generator.normal(size=(width, width)) / np.sqrt(width)
    one = generator.normal(size=(first, width)) @ mixing
    other = generator.normal(size=(second, width)) @ mixing * 1.2 + 0.1
    return one.astype(np.float32), other.astype(np.float32)


def ours(one: np.ndarray, other: np.ndarray) -> float:
    gaussians = [
        frame_statistics([several], one.mean(axis=0).astype(np.float64)).gaussian() for several in (one, other)
    ]
    assert gaussians[0] is not None and gaussians[1] is not None
    return frechet_distance(*gaussians)


class Identity(torch.nn.Module):
    """Frames are their own features."""

    num_features: int

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames


def theirs(one: np.ndarray, other: np.ndarray) -> float:
    """The metric of the published evaluation: torchmetrics' FID with codec frames as features."""
    fid = pytest.importorskip(
        "torchmetrics.image.fid", reason="torchmetrics is not installed: pip install torchmetrics"
    )
    network = Identity()
    network.num_features = one.shape[1]
    metric = fid.FrechetInceptionDistance(feature=network, reset_real_features=False).set_dtype(torch.float64)
    metric.used_custom_model = True
    metric.update(torch.from_numpy(one).double(), real=True)
    metric.update(torch.from_numpy(other).double(), real=False)
    return float(metric.compute())


@pytest.mark.parametrize("size", SIZES)
def test_distance_is_that_of_torchmetrics(size: tuple[int, int, int]) -> None:
    one, other = two_sets(*size)
    assert ours(one, other) == pytest.approx(theirs(one, other), rel=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_distance_is_that_of_scipy_s_matrix_root(size: tuple[int, int, int]) -> None:
    one, other = two_sets(*size)
    covariances = [np.cov(several.astype(np.float64), rowvar=False) for several in (one, other)]
    shift = one.astype(np.float64).mean(0) - other.astype(np.float64).mean(0)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert ours(one, other) == pytest.approx(expected, rel=1e-4)


def test_identical_sets_have_no_distance() -> None:
    for size in SIZES:
        one, _ = two_sets(*size)
        assert ours(one, one) < 1e-9


def test_distance_of_codes_on_disk_is_that_of_their_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path from codes.scp, over two repeats, against torchmetrics on the dequantised frames."""
    monkeypatch.chdir(tmp_path)
    generator, names = np.random.default_rng(0), ["a-1", "a-2", "b-1", "b-2"]
    folders = [Path(name) for name in ("reference", "first", "second")]
    for folder in folders:
        with codes_writer(folder) as write:
            for name in names:
                write(name, generator.integers(4, size=(50, 2)))
    write_scp("reference/text", dict.fromkeys(names, "two"))
    write_scp("reference/utt2spk", {name: name[0] for name in names})
    write_scp("reference/wav.scp", {name: f"{name}.wav" for name in names})
    from espnet_ext.data.ark import read_codes

    tables = [read_codes(folder / "codes.scp", 2) for folder in folders]
    frames = [
        ToyCodec().dequantise(torch.cat([torch.from_numpy(np.array(table[name])) for name in names])).numpy()
        for table in tables
    ]
    resamples = Resamples.draw([name[0] for name in names], 20, seed=0)
    systems = {"original": [tables[0]], "both": tables[1:], "silent": [None]}
    found, draws = frame_distances(ToyCodec(), load_reference(Path("reference")), systems, None, resamples)
    expected = [theirs(frames[0], other) for other in frames[1:]]
    assert found["both"].repeats == pytest.approx(expected, rel=1e-4)
    assert found["both"].distance == pytest.approx(np.mean(expected), rel=1e-4)
    assert found["original"].distance == pytest.approx(0.0, abs=1e-9)
    assert found["silent"].distance is None and np.isnan(draws["silent"]).all()
    assert (found["both"].frames, found["silent"].frames) == (400, 0)
