"""What was checked and what was found, whatever the files are like."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from espnet_ext.doctor.remedies import command_for
from espnet_ext.errors import printable

MOST_OF_A_FILE = 3  # findings that are told

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What is wrong.

    Attributes:
        path: the file or directory.
        what: is wrong with it, one line.
        remedy: command that mends it, or what to do.
    """

    path: Path
    what: str
    remedy: str

    def __str__(self) -> str:
        told = self.what if str(self.path) in self.what else f"{self.path}: {self.what}"
        return f"{printable(told)}\n    {printable(self.remedy)}"


@dataclass
class Checkup:
    """Findings and counts, filled while directories are looked at.

    Attributes:
        findings: what is wrong.
        counts: kind of thing → how many of them were checked.
    """

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def ask(self, kind: str, path: Path, question: Callable[[], T], mend: str | None = None) -> T | None:
        """What a question about a file answers.

        Args:
            kind: what is counted.
            path: the file.
            question: raises what is wrong.
            mend: command that mends it; None for that of the directory's record.

        Returns:
            The answer; None, and a finding, if there was an error, of whatever kind.
        """
        self.counts[kind] += 1
        try:
            return question()
        except RecursionError:
            what = "nested too deep"
        except OSError as error:
            what = " ".join(str(error).split())
        except Exception as error:  # files may be damaged in ways that nobody has thought of
            name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            what = name + " ".join(str(error).split())
        self.find(path, what[:1000], mend)
        return None

    def find(self, path: Path, what: str, mend: str | None = None) -> None:
        """Note what is wrong with a file: the first few things, and not that another one cannot do without it.

        Args:
            path: the file.
            what: is wrong with it.
            mend: command that mends it; None for that of the directory's record.
        """
        same = sum(finding.path == path for finding in self.findings)
        files = [finding.path for finding in self.findings if finding.path != path and not finding.path.is_dir()]
        known = [name for file in files for name in (str(file), os.path.relpath(file))]
        if same < MOST_OF_A_FILE and not any(name in what for name in known):
            made_by = command_for(path if path.is_dir() else path.parent)
            self.findings.append(Finding(path, what, mend or f"copy it again, or {made_by}"))

    def summary(self) -> str:
        """How many things were found, and how many were looked at, in one line."""
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        return f"{len(self.findings) or 'nothing'} wrong; checked: {counts or 'nothing'}"
