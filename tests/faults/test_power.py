"""Loss of power, SIGTERM and Ctrl-C at random moments of every stage: the result is that of an undisturbed run."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path

import pytest

from faults.figures import count, fault
from faults.shrunk import Shrunk, difference, strike

pytestmark = [pytest.mark.faults, pytest.mark.espnet]

MODEL = "codec_lm1"
SIGNALS = {
    signal.SIGKILL: "SIGKILL of all processes of a recipe, as loss of power",
    signal.SIGTERM: "SIGTERM to run.sh alone, as from a scheduler",
    signal.SIGINT: "Ctrl-C in the terminal of a recipe",
}
SAID = {signal.SIGTERM: 143, signal.SIGINT: 130}
BESIDE = {"train": "train_tts"}  # with GPST the second training runs beside the first one
STARTED = 0.3  # seconds until run.sh has claimed its directories


@pytest.fixture(scope="module")
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shrunk:
    recipe = Shrunk.copy(tmp_path_factory.mktemp("undisturbed"), request.module.MODEL)
    recipe.run()
    assert not recipe.left()
    return recipe


def check_stop(process: subprocess.Popen[str], said: str, number: int, stage: str) -> None:
    if number != signal.SIGKILL and process.returncode != -number:  # before it has looked at its options
        assert process.returncode == SAID[signal.Signals(number)], said[-2000:]
        told = (f"in stage {stage}", f"in stage {BESIDE.get(stage)}", "before the first stage")
        assert any(f"error: stopped {where}; the same command continues there" in said for where in told), said[-2000:]


def test_a_recipe_that_is_struck_in_every_stage_makes_what_an_undisturbed_one_makes(
    undisturbed: Shrunk, tmp_path: Path
) -> None:
    recipe, draw = Shrunk.copy(tmp_path, undisturbed.model), random.Random(0)
    injected = dict.fromkeys(SIGNALS, 0)
    survived = False
    try:
        for stage, seconds in undisturbed.stages().items():
            last = BESIDE.get(stage, stage) if recipe.model == "gpst1" else stage
            only = ["--stage", stage, "--stop_stage", last]
            for number in SIGNALS:
                # one of the first moments, too: then records and locks are written
                after = STARTED + draw.choice([draw.uniform(0, seconds), draw.uniform(0, 1.5)])
                process = recipe.start(*only)
                struck, said = strike(process, number, after)
                injected[signal.Signals(number)] += struck
                if struck:
                    check_stop(process, said, number, stage)
            recipe.run(*only)
        again = recipe.run()
        assert again.count("finished before") >= len(undisturbed.stages()) - 1, again
        assert difference(undisturbed.contents(), recipe.contents()) == []
        assert recipe.left() == []
        survived = True
    finally:
        for number, row in SIGNALS.items():
            count("faults", f"{row} ({undisturbed.model})", injected[number], injected[number] if survived else 0)
    assert min(injected.values()) > 5


def test_of_two_runs_at_once_the_second_names_the_first(undisturbed: Shrunk) -> None:
    stage = ["--stage", "format", "--stop_stage", "codec", "--force"]
    with fault("a second run in the same directories"):
        before = undisturbed.contents()
        with undisturbed.start(*stage) as first:
            assert first.stdout is not None
            assert "stage" in first.stdout.readline()
            for more in ([], ["--expdir", "other"]):
                said = undisturbed.run(*stage, *more, status=1)
                assert f" is in use by process {first.pid} on " in said and len(said.splitlines()) == 1
            first.communicate(timeout=300)
            assert first.returncode == 0
        undisturbed.run()
        assert difference(before, undisturbed.contents()) == []
