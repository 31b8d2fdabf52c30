#!/usr/bin/env bash
# LibriTTS (CC BY 4.0): read speech of up to 2,456 speakers, from audio to scores.
#
#   ./run.sh --libritts PATH           uses a copy: the folder with train-clean-100, dev-clean, …; so does LIBRITTS=PATH
#   ./run.sh                           downloads the parts from openslr.org, checks and unpacks them
#   ./run.sh --parts train-clean-100 --codec world_vq --max_epoch 1
#                                      a trial of all stages on a CPU, without pretrained weights
#   ./run.sh --stage train --stop_stage train --ngpu 8 --train_config conf/train_local_ar_stack2.yaml --stacking 2
#   ./run.sh --help                    the stages and all options
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shared=${recipe}/../../../local
# shellcheck source=../../../local/parse_options.sh
. "${shared}/parse_options.sh"

fs=24000
[[ $(option_value codec encodec "$@") != world_vq ]] || fs=16000

exec bash "${shared}/codec_lm.sh" \
  --recipe_dir "${recipe}" \
  --corpus_path "libritts test_lists" \
  --corpus_option "parts text_form test_size" \
  --libritts "${LIBRITTS:-}" \
  --parts "train-clean-100 train-clean-360" \
  --train_set train \
  --valid_set dev \
  --test_sets "test_seen test_unseen" \
  --min_wav_duration 3 \
  --max_wav_duration 30 \
  --prompt_min_sec 3 \
  --reuse_audio true \
  --codec encodec \
  --fs "${fs}" \
  --token_type char \
  --cleaner english \
  --train_config conf/train_local_ar.yaml \
  --stacking "1 2 4" \
  --decodings "parallel local_ar" \
  --asr_vocabulary test \
  "$@"
