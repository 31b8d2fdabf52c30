#!/usr/bin/env bash
# Kathleen (CC0 1.0): 79 minutes of one real voice, Arctic sentences, in Lyra's codes: egs2/own with a download.
#
#   ./run.sh                           downloads the recordings from their home
#   ./run.sh --corpus PATH             uses a copy: the folder with the .txt files, or a tar archive of it
#   ./run.sh --codec_conf checkpoint=PATH
#                                      with Lyra's weights from a directory
#   ./run.sh --help                    the stages and all options
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec bash "${recipe}/../../own/codec_lm1/run.sh" \
  --recipe_dir "${recipe}" \
  --language en \
  --codec lyra \
  --stacking "1 2 4" \
  --score_args "--asr faster_whisper --mos_utterances 8" \
  "$@"
