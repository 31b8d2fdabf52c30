#!/usr/bin/env bash
# Free Spoken Digit Dataset (CC BY-SA 4.0): digit strings of six real speakers, from audio to scores.
#
#   ./run.sh                           downloads the recordings from their home
#   ./run.sh --fsdd PATH               uses a copy: the recordings directory or its .tar.gz
#   ./run.sh --size tiny               two speakers only, to see that all stages work
#   ./run.sh --stage inference         decodes and scores again
#   ./run.sh --help                    the stages and all options
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shared=${recipe}/../../../local
# shellcheck source=../../../local/parse_options.sh
. "${shared}/parse_options.sh"

size=$(option_value size full "$@")
case ${size} in
  full) defaults=(--train_config conf/train_fsdd.yaml --base_config conf/train_fsdd_base.yaml --inference_config conf/decode_fsdd.yaml) ;;
  tiny)
    # its own directories, so that neither size undoes the work of the other
    defaults=(--datadir data_tiny --dumpdir dump_tiny --expdir exp_tiny --train_config conf/train_tiny.yaml --base_config conf/train_tiny_base.yaml
      --score_args "--num_bootstrap 100 --mos_utterances 2")
    ;;
  *) usage_error "--size must be full or tiny, got '${size}'" ;;
esac

exec bash "${shared}/codec_lm.sh" \
  --recipe_dir "${recipe}" \
  --size "${size}" \
  --corpus_path fsdd \
  --train_set train \
  --valid_set dev \
  --test_sets test_seen \
  --fs 16000 \
  --codec world_vq \
  --token_type phn \
  --g2p cmudict \
  --stacking "1 2" \
  --decodings "parallel local_ar" \
  "${defaults[@]}" "$@"
