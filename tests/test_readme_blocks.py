"""The code blocks of the README run as they stand, in order, in a fresh clone and a fresh environment."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# the tests of the tests; and a page is served until somebody stops it
LEFT_OUT = {
    r"^make test\b.*$": "",
    r"^(\$python -m espnet_ext\.bin\.demo .*?)(\s+#.*)?$": r"timeout 60 \1 || (( $? == 124 ))",
}


def script() -> str:
    """Every bash and Python block of the README, in one shell."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = ["set -euo pipefail", "root=$PWD", "shopt -s expand_aliases"]
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", text, flags=re.DOTALL):
        if language == "python":
            block = f"\"$root/.venv/bin/python\" - <<'END_OF_PYTHON'\n{block}END_OF_PYTHON\n"
        for pattern, instead in LEFT_OUT.items():
            block = re.sub(pattern, instead, block, flags=re.MULTILINE)
        lines += ["set -x", block.rstrip(), "{ set +x; } 2> /dev/null"]
    return "\n".join(lines) + "\n"


def test_every_block_of_the_readme_is_in_the_script() -> None:
    text = script()
    for part in (
        "make quickstart",
        "espnet_ext.bin.say",
        "speak = CodecLM",
        "espnet_ext.bin.sweep",
        "timeout 60 $python",
    ):
        assert part in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.readme
def test_the_readme_runs_from_its_first_block_to_its_last(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("the sources are no repository that could be cloned")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    log = tmp_path / "log"
    with log.open("wb") as stream:
        done = subprocess.run(
            ["bash", "-c", script()], cwd=clone, env=inherited, stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    text = log.read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, "\n".join(text.splitlines()[-40:])
    recipe = clone / "egs2/mini_libritts/codec_lm1"
    for made in ("seven.wav", "call.wav", "report.html", "exp/sweep/scores.json"):
        assert (recipe / made).is_file(), made
