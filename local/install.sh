#!/usr/bin/env bash
# Installs this repository and the versions of its lock into a virtual environment: what `make install` does.
#
#   local/install.sh VENV [PYTHON [TORCH_INDEX_URL]]
#
# PYTHON is that of VENV, else the first of python3.11, python3.12, python3.13 and python3 that has a lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$1 python=${2-} torch_index_url=${3-}

die() {
  echo "error: $1" >&2
  exit 1
}

# version_of PYTHON: such as 3.12; nothing if it does not run, as a pyenv shim of an unused version does not
version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null || true
}

lock_of() {
  echo "requirements/lock-py${1/./}.txt"
}

install() {
  "${venv}/bin/python" -m pip --disable-pip-version-check install "$@" ||
    die "pip could not install, see above: without a network, name a folder of wheels by PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR; else run make again, which goes on from here"
}

known=$(printf '%s\n' requirements/lock-py3*.txt | sed -E 's/.*-py3(.*)\.txt/3.\1/' | paste -sd ' ' | sed 's/ /, /g')
there=$(version_of "${venv}/bin/python")
if [[ -n ${python} ]]; then
  version=$(version_of "${python}")
  [[ -f $(lock_of "${version}") ]] || die "PYTHON must be a Python of ${known}, got '${python}' (${version:-which does not run})"
  [[ -z ${there} || ${there} == "${version}" ]] ||
    die "PYTHON must be ${there} as in ${venv}, got '${python}' (${version}): add VENV=.venv-${version}, or make clean first"
else
  for python in "${venv}/bin/python" python3.11 python3.12 python3.13 python3; do
    version=$(version_of "${python}")
    [[ ! -f $(lock_of "${version}") ]] || break
  done
  [[ -f $(lock_of "${version}") ]] || die "no Python of ${known} found: install one, or name it by make PYTHON=/path/to/python3.13"
fi

# also where an interrupted call left an environment without pip
if [[ ! -x ${venv}/bin/pip ]]; then
  [[ -z ${there} ]] || python=python${version}
  "${python}" -m venv "${venv}" || die "'${python}' must have the modules venv and ensurepip (Debian: apt-get install python${version}-venv)"
fi
install ${torch_index_url:+--index-url "${torch_index_url}"} "$(grep '^torch==' requirements/lock.in)"
# the lock is complete: what torch does not bring; on Python 3.11 espnet's bound on setuptools excludes torch's
install --no-deps --no-build-isolation --use-pep517 -r "$(lock_of "${version}")" -e .
