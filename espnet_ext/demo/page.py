"""The page: controls, and what they are connected with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import soxr
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.demo.speak import Wish, answers, picture, served
from espnet_ext.errors import UserError
from espnet_ext.inference.speaker import Speaker

# fonts of the machine: the page must not ask others for any
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
NO_SPEAKER = "(no speaker)"
Speakers = Mapping[str, NDArray[np.int64]]
Bases = Mapping[str, Mapping[str, DecodeOptions]]


def _pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples as the player wants them: 16 bits, so that it changes no level."""
    return (samples * 32767).clip(-32768, 32767).astype(np.int16)


def _handler(
    models: Mapping[str, Speaker], bases: Bases, speakers: Speakers, live: bool
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def speak(
        text: str,
        model: str,
        speaker: str,
        recording: str | None,
        decoding: str,
        rounds: float,
        temperature: float,
        guidance: float,
        seed: float,
    ) -> Iterator[tuple[Any, ...]]:
        prompt: NDArray[np.int64] | Path | None = Path(recording) if recording else speakers.get(speaker)
        rate = models[model].codec.spec.sample_rate_hz
        try:
            wish = Wish(text, prompt, decoding, int(rounds), temperature, guidance, int(seed))
            for answer in answers(models[model], wish, bases[model]):
                whole = (rate, _pcm(answer.whole)) if answer.is_last else gr.skip()
                heard = soxr.resample(answer.whole, rate, EVALUATION_RATE_HZ).astype(np.float32)
                shown = (whole, picture(heard), answer.line)
                yield ((rate, _pcm(answer.samples)), *shown) if live else shown
        except (UserError, OSError) as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from None

    return speak


def build(models: Mapping[str, Speaker], bases: Bases, speakers: Speakers, live: bool) -> gr.Blocks:
    """The page.

    Args:
        models: label → model, at least one.
        bases: label → strategy → options of its yaml, for what the page does not ask.
        speakers: name → codes of their voice.
        live: whether pieces play while the rest is made, for which gradio needs ffmpeg.

    Returns:
        The page, not served yet.
    """
    labels = list(models)
    first = served(models[labels[0]], bases[labels[0]])
    sampling = next(iter(bases[labels[0]].values())).sampling
    heat = sampling.get("temperature", 0.7)
    heat = heat if isinstance(heat, (int, float)) else heat[-1]  # of all codebooks but the first, where they differ
    with gr.Blocks(title="Speech of codec language models", analytics_enabled=False) as page:
        gr.Markdown("# Speech of codec language models")
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(label="Text", lines=2, placeholder="what to say", autofocus=True)
                model = gr.Dropdown(labels, value=labels[0], label="Model (S: frames per step)")
                speaker = gr.Dropdown([NO_SPEAKER, *speakers], value=next(iter(speakers), NO_SPEAKER), label="Speaker")
                recording = gr.Audio(
                    type="filepath", label="… or a recording of the voice", sources=["upload", "microphone"]
                )
                decoding = gr.Dropdown(first, value=first[-1], label="Strategy")
                with gr.Accordion("Settings", open=False):
                    rounds = gr.Slider(1, 16, 3, step=1, label="Rounds (MaskGIT strategies)")
                    temperature = gr.Slider(0, 1.5, heat, step=0.05, label="Temperature")
                    guidance = gr.Slider(1, 4, sampling.get("cfg_scale", 1.0), step=0.1, label="Guidance")
                    seed = gr.Number(0, precision=0, label="Seed")
                button = gr.Button("Speak", variant="primary")
            with gr.Column():
                now = (
                    [gr.Audio(label="While it is made", streaming=True, autoplay=True, interactive=False)]
                    if live
                    else []
                )
                whole = gr.Audio(label="Whole utterance", autoplay=not live, interactive=False)
                image = gr.Image(label="Spectrogram, 0 to 8 kHz", interactive=False)
                line = gr.Textbox(label="Timing, and what the model does not know of the text", interactive=False)
        model.change(
            lambda label: gr.update(choices=served(models[label], bases[label])), model, decoding, api_name=False
        )
        wishes = [text, model, speaker, recording, decoding, rounds, temperature, guidance, seed]
        shown = [*now, whole, image, line]
        # one at a time: all share the processor, and figures of speed should be of one utterance
        gr.on([button.click, text.submit], _handler(models, bases, speakers, live), wishes, shown, concurrency_limit=1)
    return page
