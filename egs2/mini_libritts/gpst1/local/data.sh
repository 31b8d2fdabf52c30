#!/usr/bin/env bash
# Stage 1: the same corpus as that of codec_lm1, prepared by the same script in this recipe's directories.
# Run from the recipe's directory:  bash local/data.sh [--size mini|tiny]
set -euo pipefail

exec bash ../codec_lm1/local/data.sh "$@"
