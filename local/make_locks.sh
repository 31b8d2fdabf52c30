#!/usr/bin/env bash
# Writes requirements/lock-py3*.txt and constraints-py3*.txt, one for each Python that ESPnet and this package run on: what
# `make locks` does.
#
#   local/make_locks.sh UV [OPTION...]      options of `uv pip compile`, such as --upgrade or --upgrade-package espnet
#
# A version changes only where setup.py, requirements/*.in or an option asks for it. Packages that are new to a lock come in
# the version that the other lists have, so that those can be installed beside every lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../requirements"

uv=$1
shift
# torch is installed first, from the index of one's choice, and brings these or not
of_torch='^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==' of_cuda='^(triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)=='
# of its newest release there is no wheel for Python 3.12; and sources that no compiler has to see
wheels=(--only-binary pocketsphinx) sources=(--no-binary antlr4-python3-runtime)
new=$(mktemp -d)
trap 'rm -rf "${new}"' EXIT

for version in 3.11 3.12 3.13; do
  lock=lock-py${version/./}.txt
  of_python=(--python-version "${version}" --python-platform x86_64-manylinux_2_28 --excludes left-out.in)
  [[ ${version} != 3.11 ]] || of_python+=(--excludes left-out-py311.in --overrides instead-py311.in)
  # versions that the output file has are kept, if they can be: those of this lock, then those of the other lists
  for list in "${lock}" lock-py311.txt lock-[!p]*.txt; do [[ ! -f ${list} ]] || cat "${list}"; done > "${new}/${lock}"
  "${uv}" pip compile --quiet --no-header --no-annotate "${of_python[@]}" "${wheels[@]}" \
    --extra mos --extra report --extra score --extra world "$@" ../setup.py lock.in -o "${new}/${lock}" > /dev/null ||
    { echo "error: no versions fit together for Python ${version}, see above" >&2; exit 1; }
  "${uv}" pip compile --quiet --no-deps "${of_python[@]}" --only-binary :all: "${sources[@]}" "${new}/${lock}" > /dev/null ||
    { echo "error: no wheel for Python ${version}, see above: hold that package back in make_locks.sh, as pocketsphinx" >&2; exit 1; }
done
# constraints are for pip alone, which knows no overrides and leaves nothing out: all bounds of all packages hold
grep -v '^torch==' lock.in > "${new}/lock-py311.in"
for version in 3.11 3.12 3.13; do
  name=constraints-py${version/./} more=lock.in
  [[ ${version} != 3.11 ]] || more=${new}/lock-py311.in  # ESPnet 202511 and the lock's torch need different setuptools
  for list in "${name}.txt" "lock-py${version/./}.txt" lock-[!p]*.txt; do [[ ! -f ${list} ]] || cat "${list}"; done > "${new}/${name}"
  "${uv}" pip compile --quiet --no-header --no-annotate --python-version "${version}" --python-platform x86_64-manylinux_2_28 \
    "${wheels[@]}" --extra all "$@" ../setup.py "${more}" -o "${new}/${name}" > /dev/null ||
    { echo "error: no versions fit together for pip on Python ${version}, see above" >&2; exit 1; }
  {
    echo "# Versions that fit together, for \`pip install -c\`; made by \`make locks\`. What they prevent, and what not: docs/install.md."
    grep -Ev "${of_cuda}" "${new}/${name}"
  } > "${new}/${name}.done"
  mv "${new}/${name}.done" "${name}.txt"
done
for lock in "${new}"/lock-*.txt; do
  {
    echo "# What make installs after torch, with \`pip install --no-deps\`; made by \`make locks\` of setup.py and lock.in."
    grep -Ev "${of_torch}" "${lock}"
  } > "${lock}.done"
  mv "${lock}.done" "${lock##*/}"
done
