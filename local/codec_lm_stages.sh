# The stages of a codec language model that shared_stages.sh does not have. To be sourced by codec_lm.sh, whose options and names
# of directories they use; stages.sh runs their jobs.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154,SC2317,SC2329 # recipe.sh declares the options, and stages.sh calls the stages by name

# train_options: the options that collecting statistics and training share
train_options() {
  local part name
  common=(--token_type "${token_type}" --token_list "${token_list}" --cleaner "${cleaner}"
    --codec_info "${codec_dir}/codec_info.yaml")
  [[ ${token_type} != bpe ]] || common+=(--bpemodel "${token_list%/*}/bpe.model")
  [[ ${g2p} == none ]] || common+=(--g2p "${g2p}")
  for part in train valid; do
    name=${part}_set
    common+=(--"${part}_data_path_and_name_and_type" "${codec_dir}/${!name}/text,text,text"
      --"${part}_data_path_and_name_and_type" "${codec_dir}/${!name}/codes.scp,codes,kaldi_ark"
      --"${part}_data_path_and_name_and_type" "${codec_dir}/${!name}/prompt.scp,prompt,kaldi_ark")
  done
  inputs=("${codec_dir}" "${token_list%/*}" "${codec_dir}"/{"${train_set}","${valid_set}"}/{text,codes.scp,prompt.scp,utt2num_frames})
}

stage_token_list() {
  if [[ -z ${init_from} ]]; then make_token_list; return; fi
  job "${token_name}" "${token_list%/*}" "${init_from}/config.yaml" -- "${python}" "${shared}/from_experiment.py" --exp "${init_from}" \
    --token_list "${token_list}"
}

stage_stats() {
  local common inputs name collected=${stats_dir}/logdir/stats.1
  require_conf train_config "${train_config}"
  require_file "${token_list}" token_list
  for name in "${train_set}" "${valid_set}"; do require_file "${codec_dir}/${name}/codes.scp" codec_tokens; done
  train_options
  quiet=true # ESPnet's log repeats every option
  job collect "${collected}" "${train_config}" "${inputs[@]}" -- "${python}" -m espnet_ext.bin.codec_lm_train --collect_stats true \
    --config "${train_config}" "${common[@]}" --train_shape_file "${codec_dir}/${train_set}/utt2num_frames" \
    --valid_shape_file "${codec_dir}/${valid_set}/utt2num_frames" --output_dir "${collected}" --ngpu 0
  wait_for_jobs
  job aggregate "${stats_dir}" "${collected}"/{train,valid} -- "${python}" -m espnet2.bin.aggregate_stats_dirs --skip_sum_stats \
    --input_dir "${collected}" --output_dir "${stats_dir}"
}

stage_train() { for_training train_all; }

train_all() {
  local common inputs factor more name
  require_conf train_config "${train_config}"
  for name in train/codes_shape train/text_shape valid/codes_shape valid/text_shape; do
    require_file "${stats_dir}/${name}" stats
  done
  train_options
  words more "${max_epoch:+--max_epoch ${max_epoch}} ${train_args}"
  common+=(--train_shape_file "${stats_dir}/train/codes_shape" --train_shape_file "${stats_dir}/train/text_shape"
    --valid_shape_file "${stats_dir}/valid/codes_shape" --valid_shape_file "${stats_dir}/valid/text_shape"
    --resume true --ngpu "${ngpu}" --multiprocessing_distributed true)
  inputs+=("${stats_dir}"/{train,valid})
  if [[ -n ${base_config} ]]; then train_base; fi
  [[ -z ${init_from} ]] || {
    model_files "${init_from}"
    common+=(--init_from "${init_from}") inputs+=("${files[@]}")
  }
  for factor in ${stacking}; do
    train_model "s${factor}" "$(model_dir "${factor}")" "${train_config}" --frame_stacking_factor "${factor}" "${more[@]}"
  done
}

# train_model LABEL DIRECTORY CONFIG OPTION...: one model, or what it will cost
train_model() {
  local label=$1 output=$2 config=$3
  shift 3
  if [[ ${dry_run} == true ]]; then
    interruptible "${python}" -m espnet_ext.bin.codec_lm_train --config "${config}" "${common[@]}" "$@" --dry_run true \
      --output_dir "${output}_dry_run"
  else
    job "${label}" "${output}" "${config}" "${inputs[@]}" -- \
      train_python -m espnet_ext.bin.codec_lm_train --config "${config}" "${common[@]}" "$@" --output_dir "${output}"
  fi
}

# the model with one frame per step that the others begin with; nothing runs beside it, so it has the threads of all
train_base() {
  local base more files
  base=$(base_dir)
  words more "${base_args}"
  require_conf base_config "${base_config}"
  if (( ngpu == 0 && max_parallel_train > 1 )); then local -x OMP_NUM_THREADS=${max_parallel_train}; fi
  train_model base "${base}" "${base_config}" --frame_stacking_factor 1 \
    "${more[@]}"
  [[ ${dry_run} == true ]] || {
    wait_for_jobs
    model_files "${base}"
    common+=(--init_from "${base}") inputs+=("${files[@]}")
  }
}

# the sampling of each strategy, chosen on the validation set; nothing to do where it is given
stage_tune() {
  local factor name strategy model more files vocabulary=() others=() configs=()
  [[ ${tune} == true ]] || { log '  --tune false: the sampling is that of the configurations'; return 0; }
  [[ -z ${inference_config} ]] || { log '  --inference_config says how to sample'; return 0; }
  check_decodings
  max_jobs=${inference_nj} quiet=true # its tables are in a file
  if (( max_jobs > 1 )); then local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; fi
  require_file "${codec_dir}/${valid_set}/text" codec_tokens
  [[ ${asr_vocabulary} == test ]] || vocabulary=(--vocabulary_text "${codec_dir}/${train_set}/text")
  for name in "${train_set}" "${tests[@]}"; do
    [[ ! -f ${codec_dir}/${name}/codes.scp ]] || others+=(--not_these "${codec_dir}/${name}")
  done
  for strategy in ${decodings}; do configs+=("$(decode_config "${strategy}")"); done
  words more "--limit ${tune_utterances} ${tune_args}"
  [[ ${gpu_inference} == false ]] || more+=(--device cuda)
  for factor in ${stacking}; do
    model=$(model_dir "${factor}")
    require_file "${model}/config.yaml" train
    model_files "${model}" "${more[@]}"
    job "s${factor}" "${model}/decode" "${files[@]}" "${configs[@]}" "${codec_dir}/${valid_set}" "${vocabulary[@]:1}" -- \
      "${python}" -m espnet_ext.bin.tune --exp "${model}" --data_dir "${codec_dir}/${valid_set}" \
      --decodings "${decodings}" --conf_dir conf --conf_dir ../../../conf "${vocabulary[@]}" "${others[@]}" \
      --output_dir "${model}/decode" "${workers[@]}" "${more[@]}"
  done
}

stage_inference() {
  local factor factors share shares
  max_jobs=${inference_nj}
  if (( max_jobs > 1 )); then local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; fi
  words factors "${stacking}"
  # of each model one process, or as many as may run side by side
  shares=$(( inference_nj > ${#factors[@]} ? inference_nj / ${#factors[@]} : 1 ))
  for factor in "${factors[@]}"; do
    require_file "$(model_dir "${factor}")/config.yaml" train
    for (( share = 0; share < shares; share++ )); do decode_share "${factor}" "${share}" "${shares}"; done
  done
  resynthesize_all
}

# decode_share STACKING SHARE SHARES: every SHARES-th output of a model, in one process
decode_share() {
  local strategy name seed number=0
  for strategy in ${decodings}; do
    for name in "${tests[@]}"; do
      for (( seed = 0; seed < num_repeats; seed++ )); do
        (( number++ % $3 != $2 )) || decode "$1" "${strategy}" "${name}" "${seed}"
      done
    done
  done
  run_parts "s$1$( (( $2 == 0 )) || printf '.%d' "$2" )" "${python}" -m espnet_ext.bin.codec_lm_inference
}

# decode STACKING STRATEGY SET REPEAT: the first has the seed of the configuration, the others have the following ones
decode() {
  local model output config more files label="s$1.$2.$3"
  config=$(decode_config "$2" "$1")
  require_file "${codec_dir}/$3/text" codec_tokens
  words more "${inference_args}"
  [[ ${gpu_inference} == false ]] || more+=(--device cuda)
  model=$(model_dir "$1")
  output=$(decode_dir "$1" "$2" "$4")/$3
  if (( $4 > 0 )); then more+=(--repeat "$4") label+=.seed$4; elif [[ -z ${inference_tag} ]]; then more+=(--keep_config); fi
  model_files "${model}" "${more[@]}"
  part "${label}" "${output}" "${files[@]}" "${config}" "${codec_dir}/$3" -- \
    "${python}" -m espnet_ext.bin.codec_lm_inference --exp "${model}" --data_dir "${codec_dir}/$3" --decoding "$2" \
    --inference_config "${config}" --output_dir "${output}" "${workers[@]}" "${more[@]}"
}

# the corpus, and the list of pairs as a data directory beside its sets
stage_data() {
  prepare_corpus
  [[ -z ${pair_set} ]] || pairs_dir
}

# read whenever it is asked for: it opens no audio, and recordings may have been added
pairs_dir() {
  local force=true
  job "${pair_set}" "${datadir}/${pair_set}" "${pair_list}" -- "${python}" "${shared}/pairs_dir.py" --pair_list "${pair_list}" \
    --audio "${pair_audio}" --text "${pair_text}" --out "${datadir}/${pair_set}"
}

stage_score() {
  local made=()
  score_all
  [[ -n ${pair_set} ]] || return 0
  made=("${datadir}" "${dumpdir}/raw" "${dumpdir}/filtered" "${codec_dir}")
  interruptible "${python}" "${shared}/pair_results.py" --scores "${expdir}/scoring/${pair_set}/scores.json" \
    --data_dir "${made[@]/%//${pair_set}}" --out "${expdir}/${pair_set}.md"
}

reference_dir() { printf '%s\n' "${codec_dir}/$1"; }

# add_systems SET: what stage inference made for it
add_systems() {
  local factor strategy seed
  for factor in ${stacking}; do
    systems+=(--train_dir "$(model_dir "${factor}")")
    for strategy in ${decodings}; do
      add_system "s${factor}_${strategy}" "$(decode_dir "${factor}" "${strategy}" 0)/$1"
      for (( seed = 1; seed < num_repeats; seed++ )); do
        add_system "s${factor}_${strategy}" "$(decode_dir "${factor}" "${strategy}" "${seed}")/$1" --repeat
      done
    done
  done
}
