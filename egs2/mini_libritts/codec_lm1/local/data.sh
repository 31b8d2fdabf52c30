#!/usr/bin/env bash
# Stage 1 of the mini recipe: the shipped archive -> a LibriTTS tree -> data/{train,dev,test_seen,test_unseen}.
# Run from the recipe's directory:  bash local/data.sh [--size mini|tiny]; ../gpst1/local/data.sh calls it from there
set -euo pipefail

shared=../../../local
# shellcheck source=../../../../local/parse_options.sh
. "${shared}/parse_options.sh"

option python python3 "Python interpreter"
option datadir data "Kaldi data directories to write"
option size mini "mini, or tiny for a trial run: two voices per subset"
option corpus ../corpus "folder with the archives"
option force false "unpack and list everything again"
usage() { printf 'usage: local/data.sh [--name value]...\n'; print_options; }
parse_options "$@"

case ${size} in
  mini) tree=downloads/mini_libritts ;;
  tiny) tree=downloads/mini_libritts_tiny ;;
  *) usage_error "--size must be mini or tiny, got '${size}'" ;;
esac
forced=()
[[ ${force} == false ]] || forced=(--force)

"${python}" "$(dirname "${BASH_SOURCE[0]}")/data_prep.py" --corpus "${corpus}" --out "${tree}" --size "${size}" "${forced[@]}"
while read -r subset name; do
  "${python}" "${shared}/libritts_dir.py" --tree "${tree}" --subset "${subset}" --out "${datadir}/${name}"
done << SETS
train-clean-mini train
dev-clean-mini dev
test-seen-mini test_seen
test-clean-mini test_unseen
SETS
