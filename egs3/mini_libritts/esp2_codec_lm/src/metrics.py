"""The measures of `espnet_ext.bin.evaluate` as a metric of ESPnet3."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet3.components.metrics.base_metric import BaseMetric
from espnet3.contract import Field

from espnet_ext.bin import evaluate
from espnet_ext.data.datadir import write_scp
from espnet_ext.errors import UserError
from espnet_ext.scoring.scores import Scores, read_scores
from espnet_ext.scoring.tables.measure import value_of

SYSTEM = "espnet3"


class Evaluation(BaseMetric):
    """Words, voice and distances of the speech of a test set, with scores.json and RESULTS.md beside it.

    Args:
        reference: directory with codec_info.yaml, and with a directory of each test set.
        measures: what metrics.json shows, by the names that scores.json has; rates are no percentages.
        options: further options of `evaluate`.
    """

    inputs = (Field("speech", "text"),)  # the path of a recording, named after its utterance

    def __init__(self, reference: str, measures: Sequence[str], options: Mapping[str, Any] | None = None) -> None:
        self.reference, self.measures, self.options = Path(reference), list(measures), dict(options or {})
        self.outputs = tuple(Field(name, "number") for name in self.measures)
        self.test_name, self.made = "", Path()
        super().__init__()
        self.add_state("paths", [], "cat")

    def __call__(self, data: dict[str, Path], test_name: str, output_dir: Path | None = None) -> dict[str, float]:
        """The measures of one test set; the arguments are those of `BaseMetric`."""
        self.test_name = test_name
        with tempfile.TemporaryDirectory() as folder:
            self.made = Path(folder)
            return super().__call__(data, test_name, output_dir)

    def update(self, speech: Sequence[str]) -> None:
        """Take recordings up.

        Args:
            speech: paths.
        """
        self.paths.extend(speech)

    def compute(self) -> dict[str, float]:
        """Evaluate all recordings.

        Returns:
            Measure → value.

        Raises:
            UserError: naming a measure that nobody could take, and why.
        """
        scores = self._evaluate()
        found = {name: value_of(scores.systems[SYSTEM], name) for name in self.measures}
        if lost := [name for name, value in found.items() if value is None]:
            raise UserError(f"measures must be some that can be taken here, got {lost}: {scores.unavailable}")
        return {name: value for name, value in found.items() if value is not None}

    def _evaluate(self) -> Scores:
        said, scored = self.made / "said", self.made / "scored"
        write_scp(said / "wav.scp", {Path(path).stem: Path(path).resolve() for path in self.paths})
        reference = self.reference / self.test_name
        command = ["--codec_info", self.reference / "codec_info.yaml", "--reference", reference, "--output_dir", scored]
        command += ["--system", f"{SYSTEM}={said}"]
        command += [word for name, value in self.options.items() for word in (f"--{name}", value)]
        evaluate.main([str(word) for word in command])
        return read_scores(scored / evaluate.SCORES_NAME)

    def write_artifacts(self, test_dir: Path) -> None:
        """Keep all that was measured.

        Args:
            test_dir: of the test set's speech.
        """
        for name in (evaluate.SCORES_NAME, evaluate.PAGE_NAME):
            shutil.copyfile(self.made / "scored" / name, Path(test_dir) / name)
