"""README.md of a voice on a hub: what it is, how it speaks, how well, and under which terms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_ext.data.inputs import CODEC_DIRECTORY
from espnet_ext.inference.experiment import Experiment
from espnet_ext.inference.requests import default_mode
from espnet_ext.model.core_lm import corelms
from espnet_ext.sharing.pack import RESULTS_NAME
from espnet_ext.tokenizers.codec import codecs, read_codec_info

TAGS = ["espnet", "text-to-speech", "speech-language-model"]


def model_card(directory: Path, repo: str, facts: Mapping[str, Any]) -> str:
    """The card of an unpacked voice.

    Args:
        directory: of the voice.
        repo: ``owner/name`` that it gets.
        facts: what `voice.json` tells.

    Returns:
        Markdown with the hub's yaml in front.
    """
    experiment = Experiment.read(directory)
    about = {"library_name": "espnet_ext", "license": "other", "tags": TAGS}
    if not experiment.says_units:
        about["pipeline_tag"] = "text-to-speech"
    parts = [
        f"---\n{yaml.safe_dump(about, sort_keys=False)}---",
        f"# {repo.rpartition('/')[2]}",
        _what(experiment),
        "\n".join(
            f"- {name.replace('_', ' ')}: {facts.get(name) or 'none'}" for name in ("data_license", "codec_license")
        ),
        *_how(experiment, repo),
        "Made with "
        + ", ".join(f"{name} {number}" for name, number in sorted(facts.get("made_with", {}).items()))
        + ".",
    ]
    results = directory / RESULTS_NAME
    if results.is_file():
        parts.append(f"## Measured\n\n{_strategies(results.read_text(encoding='utf-8'))}")
    return "\n\n".join(parts) + "\n"


def _what(experiment: Experiment) -> str:
    """The model in a sentence."""
    args, spec = experiment.args, experiment.inputs.spec
    size = sum(weight.numel() for weight in experiment.load_corelm().parameters()) / 1e6
    local = args.local if isinstance(args.local, str) else ", ".join(args.local)
    return (
        f"{args.corelm} with {size:.1f} M parameters, primary transformer {args.primary}, local transformer {local}, "
        f"{args.frame_stacking_factor} frames per step; {spec.num_codebooks} codebooks of {spec.codebook_size} at "
        f"{spec.frame_rate_hz:g} frames/s ({args.codec_info.get('name', 'semantic units')})."
    )


def _how(experiment: Experiment, repo: str) -> list[str]:
    """Commands and Python that make it speak."""
    extras = ["hub"]
    if not experiment.says_units:
        codec = codecs[read_codec_info(experiment.directory / CODEC_DIRECTORY).name]
        extras += [codec.extra] if codec.extra else []
    speaks = bool(default_mode(corelms[experiment.args.corelm])) and not experiment.says_units
    shell = [f"pip install 'espnet_ext[{','.join(extras)}]'"]
    python = ["from espnet_ext.inference import Speaker", "", f'speak = Speaker.from_pretrained("{repo}")']
    if speaks:
        shell.append(f'espnet-ext say {repo} "a text" -o speech.wav')
        python.append('speak("a text").save("speech.wav")')
    return ["\n".join(["```bash", *shell, "```"]), "\n".join(["```python", *python, "```"])]


def _strategies(results: str) -> str:
    """The first table of each test set in a RESULTS.md, under its heading; all of it where there is none."""
    found: list[str] = []
    sections = results.split("\n## ")[1:]
    for section in sections:
        heading, _, rest = section.partition("\n")
        table = rest.partition("### Strategies\n")[2].strip().partition("\n\n")[0]
        if table.startswith("|"):
            found.append(f"### {heading}\n\n{table}")
    return "\n\n".join(found) or f"See `{RESULTS_NAME}`."
