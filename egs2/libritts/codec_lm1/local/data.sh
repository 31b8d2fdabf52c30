#!/usr/bin/env bash
# Stage 1 of the LibriTTS recipe: a LibriTTS tree, downloaded if need be -> data/{train,dev,test_seen,test_unseen}.
# Run from the recipe's directory:  bash local/data.sh [--libritts PATH] [--parts "train-clean-100 train-other-500"]
set -euo pipefail

shared=../../../local
# shellcheck source=../../../../local/parse_options.sh
. "${shared}/parse_options.sh"

option python python3 "Python interpreter"
option datadir data "Kaldi data directories to write"
option libritts "" "folder with the parts of LibriTTS, or its parent; empty: download them"
option parts "train-clean-100 train-clean-360" "parts to train on; voices of the first one are tested as seen voices"
option text_form normalized "normalized, original, or words: normalized without punctuation and capitals"
option test_lists "" "folder with test_seen.tsv and test_unseen.tsv; empty: chosen by the rules of make_test_list.py"
option test_size 200 "test utterances per set where the lists are chosen"
option download_dir downloads "folder for what is downloaded"
option url "" "folder of a mirror of openslr.org/resources/60; empty: openslr.org itself"
usage() { printf 'usage: local/data.sh [--name value]...\n'; print_options; }
parse_options "$@"

read -ra train_parts <<< "${parts}"
(( ${#train_parts[@]} > 0 )) || usage_error "--parts must not be empty"
all_parts=("${train_parts[@]}" dev-clean test-clean)
export PYTHONPATH="${PWD}/../../..${PYTHONPATH:+:${PYTHONPATH}}"

tree=${libritts}
if [[ -z ${tree} ]]; then
  tree=${download_dir}/LibriTTS
  options=()
  [[ -z ${url} ]] || options=(--url "${url}")
  "${python}" local/download_libritts.py --out "${tree}" "${options[@]}" "${all_parts[@]/#/--part=}"
elif [[ ! -d ${tree}/dev-clean && -d ${tree}/LibriTTS ]]; then
  tree=${tree}/LibriTTS
fi
for part in "${all_parts[@]}"; do # before minutes of reading
  [[ -d ${tree}/${part} ]] || usage_error "--libritts must be a folder with ${all_parts[*]}, got '${tree}' without ${part}"
done

lists=${test_lists}
if [[ -z ${lists} ]]; then
  lists=${datadir}/lists
  "${python}" "${shared}/make_test_list.py" --tree "${tree}" --subset "${train_parts[0]}" --count "${test_size}" \
    --share 0.25 --out "${lists}/test_seen.tsv"
  "${python}" "${shared}/make_test_list.py" --tree "${tree}" --subset test-clean --count "${test_size}" \
    --out "${lists}/test_unseen.tsv"
fi

# make_dir NAME SUBSET... [-- OPTION...]
make_dir() {
  local name=$1 subsets=()
  shift
  while (( $# > 0 )) && [[ $1 != -- ]]; do subsets+=(--subset "$1"); shift; done
  "${python}" "${shared}/libritts_dir.py" --tree "${tree}" "${subsets[@]}" --text "${text_form}" \
    --out "${datadir}/${name}" "${@:2}"
}

make_dir test_seen "${train_parts[@]}" -- --list "${lists}/test_seen.tsv"
make_dir test_unseen test-clean -- --list "${lists}/test_unseen.tsv"
make_dir dev dev-clean
make_dir train "${train_parts[@]}" -- --hold_out "${lists}/test_seen.tsv" --hold_out "${lists}/test_unseen.tsv"
