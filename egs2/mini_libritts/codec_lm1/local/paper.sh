#!/usr/bin/env bash
# The paper's question on enough sentences to answer it: how far the codes of each strategy are from the real ones, at every S.
# The training sentences are spoken again, sampled as published; words are a matter of the test sets and left out.
# Run from the recipe's directory behind stage train:  bash local/paper.sh [--stacking "1 2 4"] [--expdir exp]
set -euo pipefail

shared=../../../local
# shellcheck source=../../../../local/parse_options.sh
. "${shared}/parse_options.sh"

option python ../../../.venv/bin/python "Python interpreter"
option expdir exp "experiments"
option codec_dir dump/codec_world_vq "codes"
option name codec_lm_train_mini_world_vq_phn_cmudict "experiments without _s1, _s2, …"
option stacking "1 2 4" "frames per step"
option decodings "parallel local_ar local_maskgit" "strategies; each is compared with the first"
option temperature 0.7 "as published; words are fewer wrong with less"
option sentences 400 "sentences of the training set; a distance needs 200 frames for each of its 108 dimensions"
option nj 2 "processes"
usage() { printf 'usage: local/paper.sh [--name value]...\n'; print_options; }
parse_options "$@"

# every so many sentences of the training set
data=${expdir}/scoring/paper_set
every=$(( ($(wc -l < "${codec_dir}/train/text") + sentences - 1) / sentences ))
mkdir -p "${data}"
cp "${codec_dir}"/train/*.yaml "${data}"
for table in text codes.scp prompt.scp wav.scp utt2spk utt2num_frames utt2prompt; do
  awk "NR % ${every} == 1 % ${every}" "${codec_dir}/train/${table}" > "${data}/${table}"
done

read -ra strategies <<< "${decodings}"
systems=()
for factor in ${stacking}; do
  exp=${expdir}/${name}_s${factor}
  for strategy in "${strategies[@]}"; do
    out=${exp}/decode_${strategy}_published/paper config=${data}/decode_${strategy}.yaml
    sed "s/^    temperature:.*/    temperature: ${temperature}/" "../../../conf/decode_${strategy}.yaml" > "${config}"
    OMP_NUM_THREADS=1 "${python}" -m espnet_ext.bin.codec_lm_inference --exp "${exp}" --data_dir "${data}" \
      --decoding "${strategy}" --inference_config "${config}" --output_dir "${out}" --nj "${nj}"
    systems+=(--system "s${factor}_${strategy}=${out}")
    [[ ${strategy} == "${strategies[0]}" ]] ||
      systems+=(--compare "s${factor}_${strategy}" "s${factor}_${strategies[0]}")
  done
done
"${python}" -m espnet_ext.bin.evaluate --codec_info "${codec_dir}/codec_info.yaml" --reference "${data}" "${systems[@]}" \
  --asr none --speaker none --mos none --distortion false --num_bootstrap 200 --output_dir "${expdir}/scoring/paper" --nj "${nj}"
