#!/usr/bin/env bash
# Install peers of the benchmark, each in an environment of its own beside this file: install.sh espnet nemo moshi csm audiocraft
# TORCH_INDEX_URL=... is a package index for torch alone, for example PyTorch's CPU wheel index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

environment() {
  "${PYTHON:-python3.11}" -m venv ".venv-$1"
  # shellcheck disable=SC2086
  ".venv-$1/bin/pip" install -q ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch==2.13.0
}

install_peer() {
  case $1 in
    espnet) # its MultiScaleLM needs nothing but torch, and runs with the interpreter of espnet_ext
      "${PYTHON:-python3.11}" -m pip download -q --no-deps -d .download espnet==202506
      "${PYTHON:-python3.11}" -m zipfile -e .download/espnet-202506-py3-none-any.whl .espnet202506 ;;
    nemo) # about 3 GB
      environment nemo
      echo torch==2.13.0 > .download-constraint
      .venv-nemo/bin/pip install -q -c .download-constraint "nemo_toolkit[tts]==3.0.0" ;;
    moshi) # it asks for an older torch, and runs with this one
      environment moshi
      .venv-moshi/bin/pip install -q --no-deps moshi==0.2.13
      .venv-moshi/bin/pip install -q einops numpy safetensors huggingface-hub sentencepiece sphn sounddevice ;;
    csm)
      environment csm
      .venv-csm/bin/pip install -q transformers==5.24.0 ;;
    audiocraft) # without what its language model does not need: torchaudio (linked against CUDA), xformers, av
      environment audiocraft
      .venv-audiocraft/bin/pip install -q --no-deps audiocraft==1.3.0
      .venv-audiocraft/bin/pip install -q einops numpy flashy omegaconf hydra-core num2words sentencepiece spacy tqdm \
        huggingface_hub transformers demucs librosa gradio torchmetrics encodec protobuf ;;
    *) echo "install.sh: there is no peer '$1'; there are espnet nemo moshi csm audiocraft" >&2; return 1 ;;
  esac
}

[[ $# -gt 0 ]] || { sed -n 2,3p "$0"; exit 1; }
for name in "$@"; do install_peer "$name"; done
