#!/usr/bin/env bash
# The comparisons on one CUDA GPU in one call: bench/gpu.sh [PYTHON]; writes bench/results/gpu.md. Ends with an error where there is no GPU.
# With DATA=FOLDER (files as for tabular.py) the CTGAN generator is fitted on Adult, too; if it holds banking77_train.csv and
# banking77_test.csv, texts are written by both routes.
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
  if [ -f "${DATA:-}/banking77_train.csv" ]; then
    echo
    echo "Texts of banking77, epsilon 4, 3,500 rows: what training on the rows adds (docs/text.md says what the figures are):"
    echo
    work=$(mktemp -d)
    for route in guided tuned; do
      DPSYNTH_LEDGER="$work/$route.db" "$python" examples/text.py "$work/$route" --data "$DATA/banking77_train.csv" \
        --test "$DATA/banking77_test.csv" --rows 3500 --epsilon 4 --route "$route" >"$work/$route.log"
      "$python" - "$work/$route/text.json" <<'ROW'
import json, sys
found = json.load(open(sys.argv[1]))
shown = ("tstr_tfidf", "tstr_minilm", "label_agreement", "mauve", "bits_per_byte", "bits_per_byte_real", "fit_s", "release_s")
print(f"- {found['settings']['route']}: " + ", ".join(f"{name} {found[name]:.3f}" for name in shown))
ROW
    done
    rm -rf "$work"
  fi
} >"$out.part"
mv "$out.part" "$out"
cat "$out"
