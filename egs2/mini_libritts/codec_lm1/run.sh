#!/usr/bin/env bash
# Mini LibriTTS: the small synthetic corpus of this repository, in LibriTTS's layout, from audio to scores.
#
#   ./run.sh                           everything, as `make quickstart` does
#   ./run.sh --size tiny               the same on a handful of sentences, to see that all stages work
#   ./run.sh --stage train --stop_stage score --stacking "1 4"
#   ./run.sh --help                    the stages and all options
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shared=${recipe}/../../../local
# shellcheck source=../../../local/parse_options.sh
. "${shared}/parse_options.sh"

size=$(option_value size mini "$@")
case ${size} in
  mini) defaults=(--train_config conf/train_mini.yaml --base_config conf/train_mini_base.yaml --tune_args "--temperature 0,0.4 --cfg_scale 1.5 --top_k 80 --num_bootstrap 200" --score_args "--mos_utterances 8") ;;
  tiny)
    # its own directories, so that neither size undoes the work of the other
    defaults=(--datadir data_tiny --dumpdir dump_tiny --expdir exp_tiny --train_config conf/train_tiny.yaml --base_config conf/train_tiny_base.yaml
      --tune_utterances 4 --tune_args "--temperature 0.5 --cfg_scale 1.5 --top_k 80 --num_bootstrap 100"
      --score_args "--num_bootstrap 100 --mos_utterances 2")
    ;;
  *) usage_error "--size must be mini or tiny, got '${size}'" ;;
esac

exec bash "${shared}/codec_lm.sh" \
  --recipe_dir "${recipe}" \
  --size "${size}" \
  --train_set train \
  --valid_set dev \
  --test_sets "test_seen test_unseen" \
  --fs 16000 \
  --codec world_vq \
  --token_type phn \
  --g2p cmudict \
  --stacking "1 2" \
  --tune true \
  --decodings "parallel local_ar local_maskgit local_maskgit_adaptive local_speculative" \
  --pair_text words \
  "${defaults[@]}" "$@"
