"""Every reader of ours, with a file as it should be: other bytes make a value or an error of one line."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from fabricated import tone

from espnet_ext.data.ark import codes_writer, load_codes_entry, read_codes
from espnet_ext.data.audio import read_wav, write_wav
from espnet_ext.data.ctm import read_ctm, write_ctm
from espnet_ext.data.datadir import read_counts, read_scp, read_segments, read_skipped, write_scp
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record, Work
from espnet_ext.jobs.finished import main as ask
from espnet_ext.jobs.shards import Shard, cut
from espnet_ext.scoring.scores import ErrorRate, Scores, SystemScores, read_scores, write_scores
from espnet_ext.storage.checkpoint import read_weights
from espnet_ext.storage.lock import LOCK_NAME, claim
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.testing.models import tiny_model
from espnet_ext.tokenizers.codec import create_codec, load_codec, save_codec
from espnet_ext.tokenizers.semantic import create_semantic, load_semantic, save_semantic
from espnet_ext.tokenizers.text.tokens import read_token_list
from faults.shrunk import waited

SECONDS = 20.0  # that nothing takes, on a machine that others use as well
MORE_BYTES = 3 * 2**30  # than the process has: what a hostile size asks for is more
PIECES = [
    b"\0",
    b"-1",
    b"1e308",
    b"nan",
    b"-inf",
    b"9" * 30,
    b"\xff\xfe",
    "\u202e\u2028".encode(),
    b"&a [*a]",
    b"..",
    b"/",
]
PIECES += [
    b"!!python/object/apply:os.system [x]",
    b"{" * 3000,
    b"[" * 3000,
    b"- " * 2000,
    b": ",
    b"\n",
    b"\r",
    b"\t",
    b"'",
    b'"',
]
PIECES += [b"true", b"null", b"\x1b[2J", b"\x00\x00\x00\x80", b"\x7f\xff\xff\xff", b"|", b"touch x |"]


@dataclass(frozen=True)
class Reader:
    """A way into the program.

    Attributes:
        path: of the file that is damaged.
        read: reads it.
        cost: of reading, in terms of the cheapest ones: it is fuzzed less often.
    """

    path: Path
    read: Callable[[], object]
    cost: int = 1

    def answer(self, content: bytes) -> Exception | None:
        """The error of other bytes, None if they are read; whatever is no error for a user goes through."""
        self.path.write_bytes(content)
        try:
            with waited(SECONDS):
                self.read()
        except (UserError, OSError) as error:
            line = str(error)
            if "\n" in line or len(line) > 20000:
                raise RuntimeError(f"no line for a user: {line[:5000]}") from error
            return error
        return None


@contextmanager
def bounded_memory() -> Any:
    """What asks for much more memory than there is in use gets none."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Other bytes, which are like those of a file."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        place = draw.randrange(len(changed) + 1)
        end = min(len(changed), place + draw.choice([1, 1, 4, 16, 256]))
        what = draw.randrange(7)
        if what == 0 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif what == 1:
            del changed[place:end]
        elif what == 2:
            changed[place:place] = changed[place:end]
        elif what == 3:
            changed[place:end] = draw.choice(PIECES)
        elif what == 4:
            changed[place:place] = draw.choice(PIECES)
        elif what == 5:
            changed[place:end] = draw.randbytes(end - place)
        elif draw.random() < 0.2:
            del changed[place:]
    return bytes(changed)


def nothing(items: dict[str, int]) -> dict[str, int]:
    """The work of a shard."""
    return dict(items)


def _tables(folder: Path) -> dict[str, Reader]:
    write_scp(folder / "text", {f"utt-{index}": f"some words {index}" for index in range(8)})
    write_scp(folder / "wav.scp", {f"utt-{index}": f"wavs/{index}.wav" for index in range(8)})
    write_scp(folder / "utt2num_samples", {f"utt-{index}": 16000 + index for index in range(8)})
    (folder / "segments").write_text("".join(f"utt-{index} rec {index}.0 {index}.75\n" for index in range(8)))
    (folder / "skipped").write_text("utt-1 no transcript\nutt-2 no speaker\n")
    write_ctm(folder / "words.ctm", {"utt-1": [("a", 0.0, 0.5), ("word", 0.5, 1.25)], "utt-2": [("b", 0.1, 0.2)]})
    (folder / "tokens.txt").write_text("\n".join(["<unk>", "<space>", *"abcd", "AH0", "<eos>"]) + "\n")
    (folder / "some.yaml").write_text(
        "corelm: codec_lm\nlocal: [ar, maskgit]\nlocal_conf: {ar: {width: 64, lr: 1.0e-3}}\n"
    )
    (folder / "decode.yaml").write_text(
        Path(__file__).parents[2].joinpath("conf/decode_local_maskgit.yaml").read_text()
    )
    return {
        "tables of texts": Reader(folder / "text", lambda: read_scp(folder / "text")),
        "tables of audio": Reader(folder / "wav.scp", lambda: read_scp(folder / "wav.scp")),
        "tables of counts": Reader(folder / "utt2num_samples", lambda: read_counts(folder / "utt2num_samples")),
        "segments": Reader(folder / "segments", lambda: read_segments(folder / "segments")),
        "skipped": Reader(folder / "skipped", lambda: read_skipped(folder / "skipped")),
        "words with times (ctm)": Reader(folder / "words.ctm", lambda: read_ctm(folder / "words.ctm")),
        "token lists": Reader(folder / "tokens.txt", lambda: read_token_list(folder / "tokens.txt")),
        "yaml": Reader(folder / "some.yaml", lambda: read_yaml(folder / "some.yaml", "config"), 2),
        "decode yamls": Reader(folder / "decode.yaml", lambda: DecodeOptions.from_yaml(folder / "decode.yaml"), 2),
    }


def _archives(folder: Path) -> dict[str, Reader]:
    with codes_writer(folder) as write:
        for index in range(4):
            write(f"utt-{index}", np.arange(8 * (index + 2)).reshape(-1, 8) % 16)
    (folder / "pointer").write_text(f"{folder}/codes.ark:6")
    scp, whole = folder / "codes.scp", read_scp(folder / "codes.scp")
    write_wav(folder / "sound.wav", tone(0.1), 16000)
    write_wav(folder / "sound.flac", tone(0.1), 16000)

    def codes() -> None:
        for name, pointer in whole.items():
            load_codes_entry(pointer, 8, name)

    def listed() -> None:
        table = read_codes(scp, 8)
        for name in table:
            table[name]

    return {
        "pointers": Reader(
            folder / "pointer", lambda: load_codes_entry((folder / "pointer").read_text(errors="replace"), 8)
        ),
        "archives of codes": Reader(folder / "codes.ark", codes),
        "codes.scp": Reader(scp, listed),
        "wav": Reader(folder / "sound.wav", lambda: read_wav(folder / "sound.wav", 16000)),
        "flac": Reader(folder / "sound.flac", lambda: read_wav(folder / "sound.flac", 16000)),
    }


def _models(folder: Path) -> dict[str, Reader]:
    save_codec(
        create_codec("world_vq", [tone(0.4)], seed=0, conf={"codebook_size": 4}),
        "world_vq",
        folder / "codec",
        origin={},
    )
    tokenizer = create_semantic("mfcc_km", iter([tone(0.4)]), seed=0, conf={"num_units": 4})
    save_semantic(tokenizer, "mfcc_km", folder / "semantic", deduplicate=True, origin={})
    torch.save(tiny_model().state_dict(), folder / "valid.loss.ave.pth")
    torch.save(
        {"reporter": {"epoch": 1, "loss": np.float64(1.0)}, "model": {"w": torch.zeros(3)}}, folder / "checkpoint.pth"
    )
    (weights,) = folder.glob("codec/*.npz")
    return {
        "codec_info.yaml": Reader(folder / "codec/codec_info.yaml", lambda: load_codec(folder / "codec"), 4),
        "weights of a codec": Reader(weights, lambda: load_codec(folder / "codec"), 4),
        "semantic_info.yaml": Reader(
            folder / "semantic/semantic_info.yaml", lambda: load_semantic(folder / "semantic"), 4
        ),
        "weights of a model": Reader(
            folder / "valid.loss.ave.pth", lambda: read_weights(folder / "valid.loss.ave.pth"), 8
        ),
        "checkpoints": Reader(folder / "checkpoint.pth", lambda: read_weights(folder / "checkpoint.pth"), 4),
    }


def _results(folder: Path) -> dict[str, Reader]:
    systems = {"s1": SystemScores(wer=ErrorRate(rate=12.5, interval=(1, 2)))}
    write_scores(Scores(systems=systems, title="x"), folder / "scores.json")
    record = Record.of(folder / "made", {"seed": 0}, [folder / "text"])
    record.make(lambda: None)
    ask([str(folder / "asked"), "--", "python", "-m", "x", "--max_epoch", "3"])
    started, done = folder / "asked/.started", folder / "asked/.done"
    started.rename(done)
    shard: Shard[int, Any] = cut(Work(nothing, {}, "x", 4), {f"utt-{i}": i for i in range(2)}, folder / "work")[0]
    shard.path.parent.mkdir(parents=True)
    shard.make()
    lock = folder / "held" / LOCK_NAME
    lock.parent.mkdir()
    lock.write_text("4194305 somewhere 17\n")

    def hold() -> None:
        with claim(lock.parent):
            pass

    def finished() -> None:
        ask(["--resumable", str(folder / "asked"), "--", "python", "-m", "x", "--max_epoch", "4"])
        started.unlink(missing_ok=True)
        for aside in folder.glob("asked.old*"):
            aside.rename(folder / f"gone{random.random()}")
        done.parent.mkdir(exist_ok=True)

    return {
        "scores.json": Reader(folder / "scores.json", lambda: read_scores(folder / "scores.json")),
        "records": Reader(
            folder / "made/.finished.json", lambda: Record.of(folder / "made", {"seed": 1}, []).why_not()
        ),
        "records of the shell": Reader(done, finished, 4),
        "shards": Reader(shard.path, lambda: (shard.is_finished(), shard.result())),
        "locks": Reader(lock, hold, 40),
    }


def all_readers(folder: Path) -> dict[str, Reader]:
    """Name of every reader that needs no ESPnet → it, with the files in a folder."""
    folder.mkdir(exist_ok=True)
    return {**_tables(folder), **_archives(folder), **_models(folder), **_results(folder)}


def config_reader(experiment: Path) -> Reader:
    """The reader of config.yaml, without what ESPnet alone reads of it."""
    from espnet_ext.inference import Speaker

    path = experiment / "config.yaml"
    content = yaml.safe_load(path.read_text())
    names = (
        "corelm",
        "primary",
        "local",
        "frame_stacking",
        "codec_info",
        "token",
        "cleaner",
        "g2p",
        "prompt_sec",
        "best_model",
    )
    path.write_text(yaml.safe_dump({name: value for name, value in content.items() if name.startswith(names)}))
    return Reader(path, lambda: Speaker.from_experiment(experiment), 40)
