#!/usr/bin/env bash
# Stage 1 of the recipe of many voices: recordings without transcripts -> data/{train,dev,test}.
# Run from the recipe's directory:  bash local/data.sh --corpus PATH [--piece_sec 6]
set -euo pipefail

# shellcheck source=../../../../local/parse_options.sh
. ../../../local/parse_options.sh

option python python3 "Python interpreter"
option datadir data "Kaldi data directories to write"
option corpus "" "folder with train-…/ and test-…/ of SPEAKER-CHAPTER-NUMBER.flac, or a tar archive of it"
option piece_sec 6 "recordings to train on are cut into pieces that are not longer, seconds"
option heard none "recogniser whose words of the test recordings are their texts: none, or faster_whisper, ..."
usage() { printf 'usage: local/data.sh [--name value]...\n'; print_options; }
parse_options "$@"
[[ -n ${corpus} ]] || usage_error "--corpus must be a folder of recordings or a tar archive of it, got none"

"${python}" local/voices_dir.py --corpus "${corpus}" --datadir "${datadir}" --piece_sec "${piece_sec}" --heard "${heard}"
