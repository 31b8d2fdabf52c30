#!/usr/bin/env bash
# Stage 1 of the digits recipe: the recordings -> digit strings -> data/{train,dev,test_seen}.
# Run from the recipe's directory:  bash local/data.sh [--fsdd PATH] [--size full|tiny]
set -euo pipefail

# shellcheck source=../../../../local/parse_options.sh
. ../../../local/parse_options.sh

option python python3 "Python interpreter"
option datadir data "Kaldi data directories to write"
option size full "full, or tiny for a trial run: two speakers"
option fsdd "" "recordings folder or .tar.gz of the Free Spoken Digit Dataset; empty: download it"
usage() { printf 'usage: local/data.sh [--name value]...\n'; print_options; }
parse_options "$@"

case ${size} in
  full) strings=downloads/fsdd_strings ;;
  tiny) strings=downloads/fsdd_strings_tiny ;;
  *) usage_error "--size must be full or tiny, got '${size}'" ;;
esac

"${python}" local/data_prep.py --fsdd "${fsdd}" --out "${strings}" --datadir "${datadir}" --size "${size}"
