#!/usr/bin/env bash
# The comparisons on one CUDA GPU in one call: bench/gpu.sh [PYTHON]; writes bench/results/gpu.md. Ends with an error where there is no GPU.
# With DATA=FOLDER (files as for tabular.py) the CTGAN generator is fitted on Adult, too.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
out=bench/results/gpu.md
mkdir -p bench/results
"$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no CUDA device")'
{
  echo "# On $("$python" -c 'import torch; print(torch.cuda.get_device_name(), "with torch", torch.__version__)')"
  echo
  echo "A private step against a plain one (bar: LoRA with ghost clipping 1.5):"
  echo
  "$python" bench/dpsgd.py --device cuda --markdown
  if [ -n "${DATA:-}" ]; then
    echo
    echo "CTGAN on Adult, epsilon 1:"
    echo
    "$python" bench/ctgan.py --data "$DATA" --epsilon 1 --runs 1 --variants ctgan --device cuda
  fi
} >"$out.part"
mv "$out.part" "$out"
cat "$out"
