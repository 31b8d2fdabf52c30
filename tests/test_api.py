"""The API that a person would guess: prompts of every kind, options as keywords, long texts, times of words, `say`."""

from __future__ import annotations

import io
import json
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from fabricated import linked

from espnet_ext.errors import UserError
from espnet_ext.inference.long_text import PAUSE_SEC, parts_of, with_pauses
from espnet_ext.inference.sounds import read_recording
from espnet_ext.inference.words import word_spans
from espnet_ext.tokenizers.text.tokens import TextSplitter, TextTokenizer

HOW = {"retries": 0, "temperature": 0.8, "maxlenratio": 2.0, "decoding": "parallel"}


@pytest.fixture(scope="module")
def speak(experiment: Path):
    pytest.importorskip("espnet2")
    from espnet_ext.inference import CodecLM

    return CodecLM.from_experiment(experiment)


@pytest.fixture
def voice(tmp_path: Path, speak) -> Path:
    rate = speak.codec.spec.sample_rate_hz
    samples = 0.5 * np.sin(np.arange(2 * rate) / 30) * np.random.default_rng(0).uniform(0.5, 1, 2 * rate)
    soundfile.write(tmp_path / "voice.wav", samples.astype(np.float32), rate, subtype="FLOAT")
    return tmp_path / "voice.wav"


@pytest.fixture
def short(experiment: Path, tmp_path: Path) -> Path:
    """The experiment, as if no text of its training had more than twelve tokens."""
    copy = linked(experiment, tmp_path / "short")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").unlink()
    (copy / "config.yaml").write_text(yaml.safe_dump({**config, "longest": 12}))
    return copy


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.espnet
def test_a_prompt_may_be_whatever_holds_a_voice(speak, voice: Path) -> None:
    samples, rate = soundfile.read(voice, dtype="float32")
    said = speak("abba", prompt=voice, **HOW)
    kinds = {
        "text": str(voice),
        "bytes": voice.read_bytes(),
        "file": io.BytesIO(voice.read_bytes()),
        "pair": (samples, rate),
        "tensor": (torch.from_numpy(samples)[None], rate),
        "stereo": (np.stack((samples, samples), axis=1), rate),
        "double": (samples.astype(np.float64), rate),
        "codes": speak.encode_prompt(voice),
        "code tensor": torch.from_numpy(speak.encode_prompt(voice)),
    }
    for kind, prompt in kinds.items():
        assert np.array_equal(speak("abba", prompt=prompt, **HOW).codes, said.codes), kind
    assert np.array_equal(speak("abba", prompt=samples, rate=rate, **HOW).codes, said.codes)
    integers = np.round(samples * 32767).astype(np.int16)
    assert len(speak("abba", prompt=(integers, rate), **HOW).codes)
    again = speak("abba", prompt=said, **HOW)
    assert np.array_equal(again.codes, speak("abba", prompt=said.codes, **HOW).codes)
    streamed = list(speak.stream("abba", prompt=samples, rate=rate, **HOW))
    assert np.array_equal(streamed[-1].codes, said.codes)


@pytest.mark.espnet
def test_a_prompt_that_is_none_says_what_is_missing(speak, voice: Path) -> None:
    samples, rate = soundfile.read(voice, dtype="float32")
    for prompt, message in (
        (samples, r"prompt of samples must come with its rate, \(prompt, rate\) or rate=…, got float32 alone"),
        (np.arange(5), r"prompt without a rate must be codes \(T, N\), T > 0, got shape \(5,\)"),
        ((samples, 0), "rate of prompt must be above 0"),
        ((np.zeros(rate, np.float32), rate), "prompt must be audible, got silent wav: the given tuple"),
        (b"RIFF no wav", "prompt must be an audio file, got unreadable wav: the given bytes is not"),
        (np.full((3, 99), 1), "prompt of utterance"),
        (np.zeros((0, 8), int), r"prompt without a rate must be codes \(T, N\), T > 0, got shape \(0, 8\)"),
        (5, r"prompt must be an audio file, got int: a path, bytes, an open file or \(samples, rate\) will do"),
        ((samples, rate, 1), "got tuple: a path"),
    ):
        with pytest.raises(UserError, match=message):
            speak("abba", prompt=prompt, **HOW)
    unsigned = np.round(128 + 127 * samples).astype(np.uint8)
    heard, _ = read_recording((unsigned, rate), "prompt")
    assert abs(float(heard.mean())) < 0.02 and np.abs(heard - samples).max() < 0.02
    other = replace(speak("abba", **HOW), codec="of another training")
    for prompt, message in ((other, "prompt must be speech of the model's codec, got one of codec of another"),):
        with pytest.raises(UserError, match=message):
            speak("abba", prompt=prompt, **HOW)


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.espnet
def test_speech_can_be_saved_shown_and_played(speak, tmp_path: Path) -> None:
    speech = speak("abba", seed=None, **HOW)
    assert speech.sample_rate == speak.codec.spec.sample_rate_hz
    speech.save(tmp_path / "x.wav")
    samples, rate = soundfile.read(tmp_path / "x.wav", dtype="float32")
    assert rate == speech.sample_rate and np.abs(samples - speech.waveform).max() < 1e-4
    assert repr(speech).startswith(f"Speech({len(samples) / rate:.2f} s at {rate} Hz, {len(speech.codes)} x ")
    assert f"parallel, seed {speech.options.seed}" in repr(speech)
    assert speech._repr_html_().startswith('<audio controls src="data:audio/wav;base64,UklGR')
    assert np.array_equal(speak("abba", seed=speech.options.seed, **HOW).codes, speech.codes), "a drawn seed is told"


def _codes(speeches):
    return [speech.codes for speech in speeches]


@pytest.mark.espnet
def test_a_batch_takes_what_a_call_takes_and_names_the_text_that_fails(speak, voice: Path) -> None:
    texts = ["abba", "dcb", "a"]
    together = speak.batch(texts, voice, **HOW)
    assert all(
        np.array_equal(one.codes, speak(text, voice, **HOW).codes) for one, text in zip(together, texts, strict=True)
    )
    mixed = speak.batch(texts, [voice, None, speak.encode_prompt(voice)], **HOW)
    assert np.array_equal(mixed[0].codes, together[0].codes) and np.array_equal(mixed[2].codes, together[2].codes)
    assert speak.batch([]) == []
    samples, rate = soundfile.read(voice, dtype="float32")
    with voice.open("rb") as stream:
        for kind in ({"prompt": stream}, {"prompt": samples, "rate": rate}):
            shared = speak.batch(texts, **kind, **HOW)
            assert all(np.array_equal(*pair) for pair in zip(_codes(shared), _codes(together), strict=True)), kind
    for call, message in (
        (lambda: speak.batch("abba"), "texts must be a list of texts, got the plain string 'abba'"),
        (lambda: speak.batch(["ab", "漢字"], **HOW), "text 1, '漢字': text must have something that the model knows"),
        (lambda: speak.batch(["ab", "b"], [None, np.ones(3)], **HOW), "text 1, 'b': prompt of samples must come with"),
        (lambda: speak.batch(["ab"], [None, None]), "prompt and names must be one per text = 1, got 2, 1"),
        (lambda: speak.batch(["ab", None]), "text 1, None: text must be a string, got NoneType"),
        (lambda: speak(None), "text must be a string, got NoneType"),
        (lambda: speak("ab", options={}), "options must be DecodeOptions, got dict"),
    ):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.espnet
def test_a_device_that_there_is_not_and_a_training_that_has_not_ended_are_told(
    experiment: Path, tmp_path: Path
) -> None:
    from espnet_ext.inference import CodecLM

    with pytest.raises(UserError, match="device must be .*, got 'tpu'"):
        CodecLM.from_experiment(experiment, device="tpu")
    copy = tmp_path / "model"
    copy.mkdir()
    for name in ("config.yaml", "1epoch.pth", "checkpoint.pth"):
        shutil.copy2(experiment / name, copy / name)
    shutil.copytree(experiment / "codec", copy / "codec")
    with pytest.raises(FileNotFoundError, match=r"has not finished, it may be one of \['1epoch.pth'\]"):
        CodecLM.from_experiment(copy)
    assert len(CodecLM.from_experiment(copy, "1epoch.pth")("ab", **HOW).codes)
    (copy / "1epoch.pth").unlink()
    with pytest.raises(FileNotFoundError, match="has not finished, no epoch of it has finished"):
        CodecLM.from_experiment(copy)


# --- long texts ------------------------------------------------------------------------------------------------------


def test_texts_are_cut_at_sentences_then_at_commas_then_between_words() -> None:
    def fits(part: str) -> bool:
        return len(part) <= 12

    assert parts_of("One two.", fits) == ["One two."]
    assert parts_of("One two. Three! Four?", fits) == ["One two.", "Three! Four?"]
    assert parts_of("One two, three four five six", fits) == ["One two,", "three four", "five six"]
    assert parts_of("Antidisestablishmentarianism it is", fits) == ["Antidisestablishmentarianism", "it is"]
    assert parts_of("一二三四五六。七八九十，一二三四五六七八", fits) == [
        "一二三四五六。",
        "七八九十，",
        "一二三四五六七八",
    ]
    text = " ".join(f"word{number}{',' if number % 5 else '.'}" for number in range(300))
    assert " ".join(parts_of(text, fits)) == text


def test_a_text_is_not_cut_behind_an_abbreviation_or_an_initial() -> None:
    def parts(text: str) -> list[str]:
        return parts_of(text, lambda part: len(part) <= 22)

    text = "Then Mr. Smith saw Dr. J. Lee of St. Ives, e.g. today. He left."
    assert parts(text) == ["Then Mr. Smith saw", "Dr. J. Lee of", "St. Ives, e.g. today.", "He left."]
    assert parts("Neither you nor I. They all went.") == ["Neither you nor I.", "They all went."]


def test_a_text_without_blanks_is_cut_between_letters_and_joined_without_any() -> None:
    for text in ("一二三四五六七八九十" * 3, "เด็กไปโรงเรียนทุกวันและกลับบ้าน", "一二。三四五，六七八九十" * 3):
        parts = parts_of(text, lambda part: len(part) <= 7)
        assert "".join(parts) == text and max(map(len, parts)) <= 7
        assert not any(part[-1] in "เแโใไ" or unicodedata.category(part[0])[0] in "MP" for part in parts)
    assert parts_of("红狗 two dogs。红猫。", lambda part: len(part) <= 8) == ["红狗 two", "dogs。红猫。"]


def test_parts_are_joined_by_silence_without_a_click() -> None:
    part = np.ones(1000, dtype=np.float32)
    joined = with_pauses([part, part], 16000)
    pause = round(PAUSE_SEC * 16000)
    assert len(joined) == 2000 + pause and np.abs(np.diff(joined)).max() < 0.02
    assert not joined[1000 : 1000 + pause].any() and joined[0] == joined[-1] == 1
    assert np.array_equal(with_pauses([part], 16000), part)


@pytest.mark.espnet
def test_a_text_longer_than_any_of_the_training_is_said_in_parts_by_every_front_end(
    short: Path, tmp_path: Path
) -> None:
    from espnet_ext.bin import codec_lm_inference, say
    from espnet_ext.inference import CodecLM

    speak = CodecLM.from_experiment(short)
    text = " ".join(["abba dcb."] * 200)[:2000]
    speech = speak(text, **HOW)
    parts = [f"utterance.{number}" for number in range(200)]
    assert np.array_equal(speech.codes[: len(speak("abba dcb.", name=parts[0], **HOW).codes)],
                          speak("abba dcb.", name=parts[0], **HOW).codes)  # fmt: skip
    seconds = len(speech.codes) / speak.codec.spec.frame_rate_hz + 199 * PAUSE_SEC
    assert abs(len(speech.waveform) / speech.sample_rate - seconds) < 0.5
    pieces = list(speak.stream(text, **HOW))
    assert np.array_equal(pieces[-1].codes, speech.codes)
    assert np.allclose(np.concatenate([piece.samples for piece in pieces]), speech.waveform, atol=1e-6)
    assert pieces[-1].words == speech.words and len(speech.words) == 400
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    together = speak.batch([text, "ab"], **HOW)
    assert np.array_equal(together[0].codes, speech.codes)
    assert np.array_equal(together[1].codes, speak("ab", **HOW).codes)
    odd = speak("漢字。 " + " ".join(["abba dcb."] * 3) + " 字", **HOW)
    assert len(odd.codes) and set(odd.unknown) == {"漢", "字", "。", "."}, (
        "a part that cannot be said goes with another"
    )
    last = list(speak.stream("漢字。 " + " ".join(["abba dcb."] * 3) + " 字", **HOW))[-1]
    assert last.unknown == odd.unknown and last.words == odd.words
    told = [f"--{name}={value}" for name, value in HOW.items() if name != "maxlenratio"]
    say.main([str(short), text, "-o", str(tmp_path / "x.wav"), *told])
    assert soundfile.info(tmp_path / "x.wav").duration > 20
    data = tmp_path / "data"
    data.mkdir()
    (data / "text").write_text(f"utterance {text}\n")
    codec_lm_inference.main(["--exp", str(short), "--data_dir", str(data), "--output_dir", str(tmp_path / "out"),
                             "--decoding", "parallel"])  # fmt: skip
    assert (tmp_path / "out" / "utt2num_frames").read_text().split()[0] == "utterance"
    timing = json.loads((tmp_path / "out" / "timing.json").read_text())
    assert timing["utterances"] == 200, "the costs of every batch of parts"


# --- when words are spoken -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token_type", ["char", "word"])
def test_words_are_found_among_their_tokens(token_type: str) -> None:
    tokens = {"char": ["<space>", *"abcd", ","], "word": ["ab,", "cd"]}[token_type]
    tokenizer = TextTokenizer(TextSplitter(token_type), ["<unk>", *tokens, "<eos>"])
    spans = word_spans(tokenizer, "ab,  cd")
    expected = {"char": [("ab,", 0, 2), ("cd", 4, 6)], "word": [("ab,", 0, 1), ("cd", 1, 2)]}[token_type]
    assert [tuple(span) for span in spans] == expected


@pytest.mark.espnet
@pytest.mark.parametrize("decoding", ["parallel", "local_ar"])
def test_words_have_times_in_their_order(speak, decoding: str) -> None:
    speech = speak("abba dcb ab", decoding=decoding, maxlenratio=4.0, min_frames=24, temperature=0.9)
    assert [word.text for word in speech.words] == ["abba", "dcb", "ab"]
    seconds = len(speech.codes) / speak.codec.spec.frame_rate_hz
    streamed = list(speak.stream("abba dcb ab", decoding=decoding, maxlenratio=4.0, min_frames=24, temperature=0.9))
    assert streamed[-1].words == speech.words and not any(piece.words for piece in streamed[:-1])
    times = [time for word in speech.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= seconds + 1e-6


@pytest.mark.espnet
def test_inference_writes_the_times_of_words(experiment: Path, corpus: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import codec_lm_inference
    from espnet_ext.data.datadir import read_scp

    codec_lm_inference.main(["--exp", str(experiment), "--data_dir", str(corpus / "dev"), "--output_dir",
                             str(tmp_path / "out"), "--decoding", "parallel"])  # fmt: skip
    rows = [line.split() for line in (tmp_path / "out" / "words.ctm").read_text().splitlines()]
    texts = read_scp(corpus / "dev" / "text")
    assert {row[0] for row in rows} <= set(texts) and all(float(row[3]) > 0 and row[1] == "1" for row in rows)
    first = rows[0][0]
    assert [row[4] for row in rows if row[0] == first] == texts[first].split()


# --- say -------------------------------------------------------------------------------------------------------------


@pytest.mark.espnet
def test_say_takes_many_texts_a_file_the_standard_input_and_a_dash(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_ext.bin import say

    def said(*words: str) -> list[str]:
        say.main([str(experiment), "-o", str(tmp_path / "x.wav"), "--decoding", "parallel", "--device", "cpu", *words])
        names = sorted(path.name for path in tmp_path.glob("x*.wav"))
        for name in names:
            (tmp_path / name).unlink()
        return names

    assert said("abba") == ["x.wav"]
    assert said("abba", "dcb") == ["x_1.wav", "x_2.wav"]
    assert said("--", "-abba") == ["x.wav"]
    assert said("--temperature", "0", "--top_k", "0", "- ab") == ["x.wav"]
    (tmp_path / "texts").write_text("abba\n\ndcb\nab\n", encoding="utf-8-sig")
    assert said("--text_file", str(tmp_path / "texts")) == ["x_1.wav", "x_2.wav", "x_3.wav"]
    monkeypatch.setattr("sys.stdin", io.StringIO("abba\n"))
    assert said("--text_file", "-") == ["x.wav"]
    assert said("abba", "dcb", "--top_k", "3") == ["x_1.wav", "x_2.wav"]
    with pytest.raises(
        UserError, match="1 of 3 texts could not be said: text must have something that the model knows"
    ):
        say.main([str(experiment), "-o", str(tmp_path / "x.wav"), "abba", "漢字", "dcb"])
    assert sorted(path.name for path in tmp_path.glob("x*.wav")) == ["x_1.wav", "x_3.wav"]
    for words, message in (
        ((), "text must be given, or a text_file with some, got none"),
        (("abba", "--text_file", "texts"), "text and text_file must not both be given, got 'abba' and texts"),
        (("abba", "--temperature", "11"), "temperature must be "),
    ):
        with pytest.raises(UserError, match=message):
            said(*words)
    with pytest.raises(FileNotFoundError, match="text_file not found: nowhere"):
        said("--text_file", "nowhere")


@pytest.mark.espnet
def test_say_tells_that_an_experiment_is_given_more_than_a_text(gpst_experiment: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import say

    with pytest.raises(UserError, match="exp must be an experiment of a core LM that is given its text, got "):
        say.main([str(gpst_experiment), "abba", "-o", str(tmp_path / "x.wav")])
