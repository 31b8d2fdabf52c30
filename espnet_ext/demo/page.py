"""The page: controls, and what they are connected with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import soxr
from markupsafe import escape
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ
from espnet_ext.decoding import strategies
from espnet_ext.decoding.sampling import SamplingOptions
from espnet_ext.demo.fields import Kind, from_field, kind_of, to_field
from espnet_ext.demo.hear import heard
from espnet_ext.demo.speak import Offer, Wish, answers, options_for, picture, shown_options
from espnet_ext.errors import UserError

# fonts of the machine: the page must not ask others for any
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = ".gradio-container mark { background: #ffd9a0; color: #1c2126; }"
NO_SPEAKER, NOTHING = "(no speaker)", "(nothing)"
Speakers = Mapping[str, NDArray[np.int64]]
Offers = Mapping[str, Offer]
Updates = dict[Any, Any]  # component → what becomes of it


@dataclass(frozen=True, eq=False)
class Side:
    """One of two strategies beside each other.

    Attributes:
        decoding: its choice.
        body: all below.
        fields: option → its field and what kind of field that is.
        players: whole utterance, spectrogram, figures, words that were heard, what is not known of the text.
        now: what is said so far; None where nothing plays while it is made.
    """

    decoding: Any
    body: Any
    fields: Mapping[str, tuple[Any, Kind]]
    players: Sequence[Any]
    now: Any = None

    def shown(self, offer: Offer, decoding: str) -> Updates:
        """The fields of a strategy with the values of its yaml, and no others."""
        values = {} if decoding == NOTHING else shown_options(offer.bases[decoding])
        found: Updates = {self.body: gr.update(visible=decoding != NOTHING)}
        for name, (field, kind) in self.fields.items():
            known = name in values
            found[field] = gr.update(visible=known, **({"value": to_field(values[name], kind)} if known else {}))
        return found

    def asked(self, values: Mapping[Any, Any], offer: Offer) -> dict[str, Any]:
        """The options of the chosen strategy as the fields have them."""
        known = shown_options(offer.bases[values[self.decoding]])
        return {
            name: from_field(name, values[field], kind) for name, (field, kind) in self.fields.items() if name in known
        }


def _field(name: str, value: Any, kind: Kind, is_visible: bool) -> Any:
    shown = to_field(value, kind)
    if kind == "flag":
        return gr.Checkbox(shown, label=name, visible=is_visible)
    if kind == "text":
        return gr.Textbox(shown, label=name, visible=is_visible, max_lines=1)
    return gr.Number(shown, label=name, precision=0 if kind == "whole" else None, visible=is_visible)


def _side(offers: Offers, first: Offer, chosen: str, title: str, live: bool) -> Side:
    options: dict[str, list[Any]] = {}
    for offer in offers.values():
        for base in offer.bases.values():
            defaults = {**strategies.options(base.decoding), **asdict(SamplingOptions())}
            for name, value in shown_options(base).items():  # the default says whether 0 is a whole number
                options.setdefault(name, []).extend([defaults.get(name, value), value])
    choices = list(first.bases) if chosen != NOTHING else [NOTHING, *first.bases]
    values = {} if chosen == NOTHING else shown_options(first.bases[chosen])
    with gr.Column():
        decoding = gr.Dropdown(choices, value=chosen, label=title)
        with gr.Column(visible=chosen != NOTHING) as body:
            fields = {}
            with gr.Accordion("Options", open=False), gr.Row():
                for name, all_values in options.items():
                    kind = kind_of(all_values)
                    fields[name] = _field(name, values.get(name, all_values[-1]), kind, name in values), kind
            now = gr.Audio(label="While it is made", streaming=True, autoplay=True, interactive=False) if live else None
            players = [
                gr.Audio(label="Whole utterance", autoplay=chosen != NOTHING and not live, interactive=False),
                gr.Image(label="Spectrogram, 0 to 8 kHz", interactive=False),
                gr.Textbox(label="Timing", interactive=False),
                gr.HTML(),
                gr.Textbox(label="Unknown", interactive=False, visible=False),
            ]
    return Side(decoding, body, fields, players, now)


def _handler(
    offers: Offers, speakers: Speakers, sides: Sequence[Side], asked: Mapping[str, Any], texts: Sequence[str]
) -> Callable[[Updates], Iterator[Updates]]:
    def speak(values: Updates) -> Iterator[Updates]:
        text, label, speaker, recording = (values[asked[name]] for name in ("text", "model", "speaker", "recording"))
        offer = offers[label]
        prompt: NDArray[np.int64] | Path | None = Path(recording) if recording else speakers.get(speaker)
        rate = offer.speak.codec.spec.sample_rate_hz
        yield {player: gr.update(value=None) for side in sides for player in side.players}  # nothing of the last time
        try:
            chosen = {side: values[side.decoding] for side in sides if values[side.decoding] != NOTHING}
            wishes = {side: Wish(text, prompt, name, side.asked(values, offer)) for side, name in chosen.items()}
            for wish in wishes.values():  # an option of the second is refused before the first one speaks
                options_for(wish, offer.bases)
            for side, wish in wishes.items():
                whole, image, line, words, unknown = side.players
                for answer in answers(offer.speak, wish, offer.bases):
                    sound = soxr.resample(answer.whole, rate, EVALUATION_RATE_HZ).astype(np.float32)
                    shown: Updates = {image: picture(sound), line: answer.line}
                    shown[unknown] = gr.update(value=answer.unknown, visible=bool(answer.unknown))
                    if side.now is not None:
                        shown[side.now] = (rate, _pcm(answer.samples))
                    if answer.is_last:
                        shown[whole] = (rate, _pcm(answer.whole))
                    yield shown
                yield {words: heard(text, sound, texts)}
        except (UserError, OSError) as error:
            raise gr.Error(escape(str(error)), duration=None, print_exception=False) from None

    return speak


def _pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples as the player wants them: 16 bits, so that it changes no level."""
    return (samples * 32767).clip(-32768, 32767).astype(np.int16)


def build(offers: Offers, speakers: Speakers, live: bool, example: str, texts: Sequence[str] = ()) -> gr.Blocks:
    """The page.

    Args:
        offers: label → model, at least one.
        speakers: name → codes of their voice.
        live: whether pieces play while the rest is made, for which gradio needs ffmpeg.
        example: text that is there at the beginning.
        texts: whose words the recogniser may hear besides those of the text.

    Returns:
        The page, not served yet.
    """
    labels = list(offers)
    first = offers[labels[0]]
    with gr.Blocks(title="Speech of codec language models", analytics_enabled=False) as page:
        gr.Markdown("# Speech of codec language models")
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(example, label="Text", lines=2, placeholder="what to say", autofocus=True)
                model = gr.Dropdown(labels, value=labels[0], label="Model (S: frames per step)")
            with gr.Column():
                speaker = gr.Dropdown([NO_SPEAKER, *speakers], value=next(iter(speakers), NO_SPEAKER), label="Speaker")
                recording = gr.Audio(
                    type="filepath", label="… or a recording of the voice", sources=["upload", "microphone"]
                )
        button = gr.Button("Speak", variant="primary")
        with gr.Row():
            sides = [
                _side(offers, first, first.default, "Strategy", live),
                _side(offers, first, NOTHING, "Beside it", live=False),
            ]

        def of_model(label: str, beside: str) -> Updates:
            offer = offers[label]
            found: Updates = {}
            beside = beside if beside in offer.bases else NOTHING
            for side, start, more in zip(sides, (offer.default, beside), ([], [NOTHING]), strict=True):
                found[side.decoding] = gr.update(choices=[*more, *offer.bases], value=start)
                found |= side.shown(offer, start)
            return found

        parts = [[side.body, *(field for field, _ in side.fields.values())] for side in sides]
        changed = [component for side, part in zip(sides, parts, strict=True) for component in (side.decoding, *part)]
        model.change(of_model, [model, sides[1].decoding], changed, api_name=False)
        for side, part in zip(sides, parts, strict=True):
            chosen = lambda label, name, side=side: side.shown(offers[label], name)  # noqa: E731
            side.decoding.input(chosen, [model, side.decoding], part, api_name=False)
        asked = {"text": text, "model": model, "speaker": speaker, "recording": recording}
        wishes = {*asked.values(), *(field for side in sides for field, _ in side.fields.values())}
        wishes |= {side.decoding for side in sides}
        shown = [player for side in sides for player in (*([side.now] if side.now else []), *side.players)]
        # one at a time: all share the processor, and figures of speed should be of one utterance
        speak = _handler(offers, speakers, sides, asked, texts)
        gr.on([button.click, text.submit], speak, wishes, shown, concurrency_limit=1)
    return page
