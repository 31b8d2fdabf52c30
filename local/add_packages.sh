#!/usr/bin/env bash
# Adds packages to an environment of `make` and keeps what its lock has chosen: what `make add` does.
#
#   local/add_packages.sh VENV [OPTION...] PACKAGE...      options of `uv pip install`, such as --dry-run
#
# pip alone would exchange torch for a CUDA build and setuptools for one that torch refuses: bounds of ESPnet and of Resemblyzer
# that nothing here needs contradict others. The lists in requirements/ that the locks are made with set those aside.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  echo "error: $1" >&2
  exit 1
}

(( $# > 1 )) || die "PACKAGES must be named, as in: make add PACKAGES='espnet_ext[demo]'"
venv=$1
shift
[[ -x ${venv}/bin/uv ]] || die "${venv} must be an environment of make with uv in it, got none: make add installs it"

version=$("${venv}/bin/python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
lists=(--excludes requirements/left-out.in)
[[ ${version} != 311 ]] || lists+=(--excludes requirements/left-out-py311.in --overrides requirements/instead-py311.in)
# this repository's own name means this repository; of torch there is one build, whoever asks for it
kept=$(mktemp)
trap 'rm -f "${kept}"' EXIT
grep -E '^torch==' requirements/lock.in > "${kept}"
grep -E '^(torchaudio|setuptools|pyworld-prebuilt)==' "requirements/lock-py${version}.txt" >> "${kept}"

packages=()
for package in "$@"; do
  name=$(tr 'A-Z_.' 'a-z--' <<< "${package%%[\[<>=\!~ @]*}")
  if [[ ${name} == espnet-ext ]]; then
    extras=${package#"${package%%[\[<>=\!~ @]*}"}
    [[ -z ${extras} || ${extras} == \[*\] ]] || die "PACKAGES must name this repository without a version, got '${package}'"
    package="-e.${extras}"
  fi
  packages+=("${package}")
done
"${venv}/bin/uv" pip install --python "${venv}/bin/python" --no-build-isolation "${lists[@]}" --constraints "${kept}" "${packages[@]}"
