# Command-line options of the recipes: declare each one with `option`, then call `parse_options "$@"`. To be sourced.
#
#   option nj 2 "processes of the data stages"      # declares, documents and sets ${nj}
#   parse_options "$@"                              # --nj 4, --nj=4; --min-wav-duration is --min_wav_duration
#
# An option whose default is true or false may be given without a value (--force).
# shellcheck shell=bash

option_names=()
declare -A option_help=()

# option NAME DEFAULT HELP: a variable that the command line may change
option() {
  [[ -v option_help[$1] ]] || option_names+=("$1")
  option_help[$1]=$3
  printf -v "$1" '%s' "$2"
}

# usage_error MESSAGE: one line on stderr, exit status 2
usage_error() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# print_options: one line per declared option with its current value, for --help
print_options() {
  local name
  for name in "${option_names[@]}"; do
    printf '  --%-18s %s [%s]\n' "${name}" "${option_help[${name}]}" "${!name}"
  done
}

# parse_options ARGS...: sets the declared variables; --help calls `usage`, which the sourcing script defines
parse_options() {
  local name value
  while (( $# > 0 )); do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --*=*) name=${1%%=*} value=${1#*=}; shift; set -- "${name}" "${value}" "$@" ;;
      --?*) ;;
      *) usage_error "arguments must be options (--name value), got '$1'" ;;
    esac
    name=${1#--} name=${name//-/_}
    [[ -v option_help[${name}] ]] || usage_error "unknown option $1; the options are: ${option_names[*]/#/--}"
    shift
    if [[ ${!name} == true || ${!name} == false ]]; then
      case ${1-} in
        true | false) value=$1; shift ;;
        '' | --*) value=true ;;
        *) usage_error "--${name} must be true or false, got '$1'" ;;
      esac
    else
      (( $# > 0 )) || usage_error "--${name} needs a value"
      value=$1
      shift
    fi
    printf -v "${name}" '%s' "${value}"
  done
}

# option_value NAME DEFAULT ARGS...: prints the last value of --NAME among ARGS; lets a run.sh choose other defaults
option_value() {
  local name=$1 value=$2
  shift 2
  while (( $# > 0 )); do
    case ${1//-/_} in
      "__${name}") value=${2-} ;;
      "__${name}="*) value=${1#*=} ;;
    esac
    shift
  done
  printf '%s\n' "${value}"
}
