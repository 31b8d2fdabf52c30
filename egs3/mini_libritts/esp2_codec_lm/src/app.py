"""A page that speaks: ESPnet3's stage pack_demo copies it beside the packed model (`python app.py`)."""

from __future__ import annotations

from pathlib import Path

import gradio
import yaml
from espnet3.publication.inference_model import InferenceModel

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Show the page until Ctrl-C."""
    config = yaml.safe_load((HERE / "demo.yaml").read_text(encoding="utf-8"))
    model = InferenceModel.from_packed(HERE / config["model"]["dir_or_tag"], trust_user_code=True)

    def say(text: str, prompt: tuple[int, object]) -> tuple[int, object]:
        speech = model({"text": text, "prompt": prompt})["speech"]
        return speech.rate, speech.array

    inputs = [gradio.Textbox(label="Text"), gradio.Audio(label="A recording of the voice")]
    gradio.Interface(say, inputs, gradio.Audio(label="Speech"), title=config["ui"]["title"]).launch()


if __name__ == "__main__":
    main()
