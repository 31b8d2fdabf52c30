"""A voice in one file: an exported experiment, what it was measured to say, licences, and the checksums of all."""

from __future__ import annotations

import platform
import re
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import espnet_ext
from espnet_ext.data.inputs import CODEC_DIRECTORY
from espnet_ext.defaults import NOT_STATED
from espnet_ext.errors import UserError
from espnet_ext.sharing.export import export
from espnet_ext.storage.voice_files import write_list
from espnet_ext.storage.yaml_files import without_paths
from espnet_ext.storage.zip_files import write_zip
from espnet_ext.tokenizers.codec import codecs, read_codec_info

RESULTS_NAME = "RESULTS.md"
MADE_WITH = ("espnet", "torch", "safetensors")


def pack(
    exp: Path,
    output: Path,
    model_file: str | None = None,
    dtype: str = "float32",
    data_license: str = NOT_STATED,
    results: Path | None = None,
) -> None:
    """Write an experiment as one file that speaks elsewhere: `Speaker.from_pretrained` and ``espnet-ext say`` take it.

    Args:
        exp: experiment directory.
        output: the file, which ends in .zip.
        model_file: weights inside of `exp`; None for the average of the best epochs.
        dtype: of the stored weights, see `export`.
        data_license: terms of the recordings that it was trained on, in words.
        results: a RESULTS.md; None for the one beside the experiment, if it is there.

    Raises:
        FileNotFoundError: if a file of the experiment, or `results`, is missing.
        UserError: if the output has another suffix, or files do not fit each other.
    """
    if output.suffix != ".zip":
        raise UserError(f"output must end in .zip, got {output}")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "voice"
        fill(exp, place, model_file, dtype, data_license, results)
        write_zip(place, output)


def fill(
    exp: Path,
    place: Path,
    model_file: str | None = None,
    dtype: str = "float32",
    data_license: str = NOT_STATED,
    results: Path | None = None,
) -> None:
    """Write what `pack` writes, which has the arguments, as a directory."""
    if results is not None and not results.is_file():
        raise FileNotFoundError(f"results not found: {results}")
    export(exp, place, model_file, dtype)
    beside = exp.resolve().parent / RESULTS_NAME
    found = results or (beside if beside.is_file() else None)
    if found is not None:
        try:
            text = found.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"results must be UTF-8, got {found}") from None
        (place / RESULTS_NAME).write_text(_for_others(text), encoding="utf-8")
    facts = {
        "made_with": _versions(),
        "data_license": " ".join(data_license.split()),
        "codec_license": _codec_license(place),
    }
    write_list(place, {**facts, "dtype": dtype})


def _for_others(results: str) -> str:
    """A RESULTS.md without pictures, which stay behind, and without lines that name places of this machine."""
    lines = [line for line in results.splitlines() if not line.startswith("![") and without_paths(line) is not None]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _codec_license(place: Path) -> str | None:
    """Terms of the codec; None for a model that says semantic units."""
    directory = place / CODEC_DIRECTORY
    return codecs[read_codec_info(directory).name].license if directory.is_dir() else None


def _versions() -> dict[str, str]:
    """Versions of what wrote it."""
    versions = {"espnet_ext": espnet_ext.__version__, "python": platform.python_version()}
    for name in MADE_WITH:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # the model core needs no ESPnet
            continue
    return versions
