# What all recipes have in common: their options, what is checked before the first stage, names of directories, and the run
# itself. To be sourced by codec_lm.sh and gpst.sh, which define `stages`, declare_options, check_options, set_names,
# check_decodings, check_tokenizers and summary.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154,SC2317,SC2329 # the sourcing script and stages.sh read some, and call the rest by name

set -euo pipefail
export LC_ALL=C PYTHONUNBUFFERED=1 TQDM_MININTERVAL="${TQDM_MININTERVAL:-1}"
shared=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
caller_dir=${PWD}
# shellcheck source=parse_options.sh
. "${shared}/parse_options.sh"
# shellcheck source=stages.sh
. "${shared}/stages.sh"
# shellcheck source=shared_stages.sh
. "${shared}/shared_stages.sh"

declare_shared_options() {
  option stage 1 "first stage to run, number or name"
  option stop_stage "${#stages[@]}" "last stage to run, number or name"
  option force false "run the stages, and everything in them, even if nothing changed since they were finished"
  option recipe_dir . "directory that holds the recipe's local/, conf/, data and experiments"
  option conf_dir conf "further configurations, looked for behind those of recipe_dir and in front of the repository's"
  option python "" "Python interpreter; empty: python3 of the active environment, else the repository's .venv"
  option ngpu 0 "GPUs for training, of each machine; 0 trains on the CPU"
  option num_nodes 1 "machines for training; several need --launcher"
  option launcher "" "command that starts the training once on each machine, such as 'srun --nodes=2 --ntasks-per-node=1'"
  option nj 2 "processes of the data stages"
  option inference_nj 2 "decoding jobs that run side by side"
  option dask_scheduler "" "address of a dask cluster, tls://HOST:PORT, that does the work of nj instead; see docs/cluster.md"
  option max_parallel_train 2 "trainings (one per stacking factor) that run side by side, one thread each; only with ngpu 0"
  option datadir data "Kaldi data directories and the token list"
  option dumpdir dump "formatted audio and codes"
  option expdir exp "statistics, models, speech, scores"
  option train_set train "name of the training set"
  option valid_set dev "name of the validation set"
  option test_sets "test_seen" "names of the sets to decode, separated by spaces"
  option size "" "size of the corpus, as local/data.sh knows it; empty: its default"
  option local_data_opts "" "further options of local/data.sh"
  option corpus_option "" "NAMEs of further options of this recipe, which local/data.sh receives"
  option corpus_path "" "NAMEs of such options that are paths"
  option fs 16000 "sample rate of the codec, Hz"
  option min_wav_duration 0.3 "shorter utterances are skipped, seconds"
  option max_wav_duration 20 "longer utterances are skipped, seconds"
  option reuse_audio false "use audio that has the right format where it is, without a copy"
  option prompt_min_sec 0 "shortest speaker prompt where the speaker has one of this length, seconds"
  option token_type char "text tokens: char, word, bpe or phn"
  option g2p none "what makes phones for --token_type phn: g2p_en, or none for a text of phones"
  option min_count 1 "text tokens seen fewer times become <unk>"
  option nbpe 200 "pieces of the SentencePiece model that bpe trains"
  option cleaner lower "text cleaning: lower, english or none"
  option codec world_vq "codec (registry of espnet_ext.tokenizers.codec)"
  option codec_conf "" "options of the codec, k=v separated by spaces"
  option codec_tag "" "name of the codec's directories; empty: the codec's name and its options that are no paths"
  option stacking "1 2" "frame stacking factors S; one model each"
  option train_config conf/train.yaml "training configuration, in the recipe or in the repository's root"
  option max_epoch "" "epochs of training, but for --base_config; empty: as the configuration says"
  option train_args "" "further options of codec_lm_train"
  option dry_run false "stop at stage train, and measure there what it will cost instead of training"
  option tag "" "name of the model; empty: from configuration, codec and tokens"
  option decodings "parallel local_ar" "decoding strategies"
  option inference_config "" "decoding configuration of all strategies; empty: conf/decode_<strategy>.yaml of each"
  option gpu_inference false "tokenize and decode on the GPU"
  option inference_args "" "further options of codec_lm_inference"
  option inference_tag "" "added to the name of the decoding directories"
  option asr_vocabulary train "words that the recogniser of the scores knows: train, or test: those of the test set alone"
  option score_args "" "further options of score"
}

usage() {
  local i
  printf 'usage: %s [--name value]...   (dashes and underscores are the same)\n\nstages\n' "${recipe_dir}/run.sh"
  for i in "${!stages[@]}"; do printf '  %2d %s\n' "$((i + 1))" "${stages[i]}"; done
  printf '\noptions [value]\n'
  print_options
}

check_shared_options() {
  local name value
  for name in ngpu num_nodes nj inference_nj max_parallel_train fs nbpe min_count; do
    [[ ${!name} =~ ^[0-9]+$ ]] || usage_error "--${name} must be a whole number, got '${!name}'"
  done
  for name in num_nodes nj inference_nj max_parallel_train fs min_count; do
    (( ${!name} > 0 )) || usage_error "--${name} must be at least 1, got '${!name}'"
  done
  for value in ${stacking}; do
    [[ ${value} =~ ^[1-9][0-9]*$ ]] || usage_error "--stacking must be numbers of at least 1 separated by spaces, got '${stacking}'"
  done
  for name in test_sets decodings stacking codec train_set valid_set; do
    [[ -n ${!name// /} ]] || usage_error "--${name} must not be empty"
  done
  first=$(stage_number "${stage}")
  last=$(stage_number "${stop_stage}")
  (( first <= last )) || usage_error "--stage must not come after --stop_stage, got ${stage} and ${stop_stage}"
  [[ -z ${dask_scheduler} || ${dask_scheduler} =~ ^(tcp|tls)://.+:[0-9]+$ ]] ||
    usage_error "--dask_scheduler must be tls://HOST:PORT or tcp://HOST:PORT, got '${dask_scheduler}'"
  [[ -z ${max_epoch} || ${max_epoch} =~ ^[1-9][0-9]*$ ]] || usage_error "--max_epoch must be a number of at least 1, got '${max_epoch}'"
  [[ ${prompt_min_sec} =~ ^[0-9]+([.][0-9]+)?$ ]] || usage_error "--prompt_min_sec must be seconds, got '${prompt_min_sec}'"
  [[ ${asr_vocabulary} == train || ${asr_vocabulary} == test ]] || usage_error "--asr_vocabulary must be train or test, got '${asr_vocabulary}'"
  for value in ${corpus_path}; do # a path that exists where the user stands means that path
    [[ ! -e ${caller_dir}/${!value} ]] || [[ -z ${!value} ]] || printf -v "${value}" '%s' "${caller_dir}/${!value}"
  done
  resolve_conf codec_conf 'checkpoint|config'
  (( num_nodes == 1 )) || [[ -n ${launcher} ]] || usage_error "--launcher must be given with --num_nodes ${num_nodes}"
  value=$(stage_number train)
  if [[ ${dry_run} == true ]] && (( last > value )); then
    (( first <= value )) || usage_error "--stage must not come after train with --dry_run true, got ${stage}"
    last=${value}
  fi
  find_python
}

# resolve_conf OPTION KEYS: values of KEYS (a|b) in the option, too, mean a path that exists where the user stands
resolve_conf() {
  local value words=()
  read -ra words <<< "${!1}"
  for value in "${!words[@]}"; do
    [[ ${words[value]} =~ ^($2)=(.+)$ && -e ${caller_dir}/${BASH_REMATCH[2]} ]] || continue
    [[ ${caller_dir} != *' '* ]] || usage_error "--$1 ${words[value]} must be a full path where the current directory has a space in its name"
    words[value]=${BASH_REMATCH[1]}=${caller_dir}/${BASH_REMATCH[2]}
  done
  printf -v "$1" '%s' "${words[*]}"
}

# before the first stage: what would stop a later one, after hours perhaps
check_before_work() {
  local name
  for name in datadir dumpdir expdir; do
    [[ ${!name} != *[,:]* ]] || usage_error "--${name} must have neither comma nor colon, which separate names in tables, got '${!name}'"
  done
  if in_range stats || in_range train; then
    for name in train_config base_config tts_config; do [[ -z ${!name-} ]] || require_conf "${name}" "${!name}"; done
  fi
  if [[ ${g2p} != none ]] && in_range token_list; then
    "${python}" -c 'import sys; from espnet_ext.bin import run; from espnet_ext.tokenizers.text.g2p import g2ps
run(lambda: g2ps[sys.argv[1]]()("a"))' "${g2p}" || exit 1
  fi
  if { (( ngpu > 0 )) && [[ -z ${launcher} ]] && in_range train; } ||
    { [[ ${gpu_inference} == true && -z ${dask_scheduler} ]] && { in_range codec_tokens || in_range inference; }; }; then
    name=$("${python}" -c 'import torch; print(torch.cuda.device_count())')
    [[ -z ${name} || -n ${launcher} ]] || (( ngpu <= name )) || usage_error "--ngpu must be at most ${name}, the GPUs of this machine, got ${ngpu}"
    [[ ${name} != 0 || ${gpu_inference} == false ]] || usage_error "--gpu_inference must be false on a machine without a GPU"
  fi
}

# before the first stage: a codec that cannot be made should not be found after a download of hours
check_codec() {
  local number codec_args
  number=$(stage_number codec)
  (( first < number && number <= last )) || return 0
  [[ ! -f ${codec_dir}/.done ]] || return 0
  codec_options
  "${python}" -m espnet_ext.bin.codec_fit "${codec_args[@]}" --check_rate "${fs}" || exit 1
}

find_python() {
  if [[ -z ${python} ]]; then
    python=python3
    [[ -n ${VIRTUAL_ENV-} || ! -x ${shared}/../.venv/bin/python ]] || python=$(cd "${shared}/.." && pwd)/.venv/bin/python
  elif [[ ${python} == */* && ${python} != /* ]]; then
    python=${caller_dir}/${python}
  fi
  command -v "${python}" > /dev/null || usage_error "--python must be a Python interpreter, got '${python}'"
}

# conf_path FILE: FILE of the recipe directory, else of --conf_dir, else of the repository's root
conf_path() {
  local path
  for path in "$1" "${conf_dir}/${1#conf/}" "../../../$1"; do
    [[ ! -f ${path} ]] || { printf '%s\n' "${path}"; return; }
  done
  printf '%s\n' "$1"
}

# short_name OPTIONS: "_" and the options as a part of a file name; many of them as a number
short_name() {
  local text
  text=$(tr -cs 'A-Za-z0-9.=-' '_' <<< "$1")
  text=${text#_} text=${text%_}
  (( ${#text} <= 80 )) || text=$(cksum <<< "$1" | cut -d ' ' -f 1)
  [[ -z ${text} ]] || printf '_%s' "${text}"
}

# without_paths OPTIONS: those whose values are no paths. Where something lies is no part of a name: moved weights are the same
# weights, and others under the same name are told by the contents that `job` compares.
without_paths() {
  local word words kept=()
  read -ra words <<< "$1"
  for word in "${words[@]}"; do
    case ${word#*=} in
      /* | '~'* | ./* | ../*) ;;
      */*) [[ -e ${word#*=} ]] || kept+=("${word}") ;; # or a name on a hub
      *) kept+=("${word}") ;;
    esac
  done
  printf '%s' "${kept[*]}"
}

# set_shared_names: names of files and directories that several stages use
set_shared_names() {
  sets=("${train_set}" "${valid_set}")
  read -ra tests <<< "${test_sets}"
  sets+=("${tests[@]}")
  [[ -n ${codec_tag} ]] || codec_tag=${codec}$(short_name "$(without_paths "${codec_conf}")")
  codec_dir=${dumpdir}/codec_${codec_tag}
  token_name=${token_type}$([[ ${g2p} == none ]] || printf '_%s' "${g2p}")
  forced=() workers=()
  [[ ${force} == false ]] || forced=(--force)
  [[ -z ${dask_scheduler} ]] || workers=(--dask_scheduler "${dask_scheduler}")
  workers+=("${forced[@]}")
  token_list=${datadir}/token_list/${token_name}/tokens.txt
}

# conf_name FILE: a part of the names of what is made with it
conf_name() {
  local name=${1##*/}
  printf '%s\n' "${name%.*}"
}

# in_range STAGE: whether the stage is one of those to run
in_range() {
  local number
  number=$(stage_number "$1")
  (( first <= number && number <= last ))
}

words() { read -ra "$1" <<< "$2"; }

# run_recipe ARGUMENTS...: the stages that the options ask for
run_recipe() {
  local number name prepared
  declare_options
  recipe_dir=$(option_value recipe_dir . "$@")
  for name in $(option_value corpus_option "" "$@") $(option_value corpus_path "" "$@"); do option "${name}" "" "option of this corpus, see local/data.sh"; done
  parse_options "$@"
  cd "${recipe_dir}"
  check_options
  set_names
  export PYTHONPATH="${shared%/*}${PYTHONPATH:+:${PYTHONPATH}}"
  package_root=${shared%/*}
  [[ -d ${package_root}/espnet_ext ]] ||
    package_root=$("${python}" -c 'import espnet_ext; print(espnet_ext.__path__[0].rpartition("/")[0])')
  prepared=$(stage_number token_list) # the last stage that writes to datadir and dumpdir
  if in_range inference; then check_decodings; fi
  check_before_work
  check_tokenizers
  trap end_of_run EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  claim "${expdir}"
  (( first > prepared )) || claim "${datadir}" "${dumpdir}"
  (( first == 1 )) || check_words
  for (( number = first; number <= last; number++ )); do
    run_stage "${stages[number - 1]}"
    (( number > 1 )) || check_words
    (( number < prepared )) || release "${datadir}" "${dumpdir}" # another run may prepare the same for another experiment
  done
  log "stages ${first} to ${last} are finished in ${PWD}"
  printf 'times of the stages\n'
  print_stage_times
  summary
  exit # here, so that bash does not read on in a file that was edited meanwhile
}

# show LABEL PATTERN: a line of the summary, if there is a file of that pattern
show() {
  if compgen -G "$2" > /dev/null; then printf '%-8s %s\n' "$1" "${3:-$2}"; fi
}
