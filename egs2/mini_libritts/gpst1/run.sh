#!/usr/bin/env bash
# Mini LibriTTS, GPST: semantic units and codec codes in one hierarchical transformer, from audio to scores of every mode.
#
#   ./run.sh                           everything, as `make quickstart-gpst` does
#   ./run.sh --size tiny               the same on a handful of sentences, to see that all stages work
#   ./run.sh --stage inference --modes "speaker_transfer speaker_conversion"
#   ./run.sh --help                    the stages and all options
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shared=${recipe}/../../../local
# shellcheck source=../../../local/parse_options.sh
. "${shared}/parse_options.sh"

size=$(option_value size mini "$@")
case ${size} in
  mini)
    defaults=(--train_config conf/train_mini_gpst.yaml --tts_config conf/train_mini_text_to_semantic.yaml
      --score_args "--mos_utterances 16")
    ;;
  tiny)
    # its own directories, so that neither size undoes the work of the other
    defaults=(--datadir data_tiny --dumpdir dump_tiny --expdir exp_tiny --train_config conf/train_tiny_gpst.yaml
      --tts_config conf/train_tiny_text_to_semantic.yaml --num_unconditional 4 --score_args "--num_bootstrap 100 --mos_utterances 2")
    ;;
  *) usage_error "--size must be mini or tiny, got '${size}'" ;;
esac

exec bash "${shared}/gpst.sh" \
  --recipe_dir "${recipe}" \
  --conf_dir "${recipe}/conf" \
  --size "${size}" \
  --train_set train \
  --valid_set dev \
  --test_sets "test_seen test_unseen" \
  --fs 16000 \
  --codec world_vq \
  --semantic logmel_km --semantic_conf "num_units=512 deltas=1" --deduplicate false \
  --token_type char \
  --stacking 1 \
  --decodings local_ar \
  --prompt_sec 3 \
  --continuation_sec 1 \
  "${defaults[@]}" "$@"
