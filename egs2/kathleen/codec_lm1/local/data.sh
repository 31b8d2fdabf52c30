#!/usr/bin/env bash
# Stage 1 of the Kathleen recipe: the recordings, downloaded or unpacked if need be -> data/{train,dev,test} as egs2/own does it.
# Run from the recipe's directory:  bash local/data.sh [--corpus PATH] [option of ../../own/codec_lm1/local/data.sh]
set -euo pipefail

# shellcheck source=../../../../local/parse_options.sh
. ../../../local/parse_options.sh

corpus=$(option_value corpus "" "$@")
if [[ ! -d ${corpus} ]]; then
  "$(option_value python python3 "$@")" local/unpack_kathleen.py --archive "${corpus}" --out downloads/kathleen
  corpus=downloads/kathleen
fi
exec bash ../../own/codec_lm1/local/data.sh "$@" --corpus "${PWD}/${corpus#"${PWD}/"}"
