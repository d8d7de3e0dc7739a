#!/usr/bin/env bash
# Checks this project on the GPU (or other accelerator) of this machine: whether it is right there, how fast, in how much
# memory. docs/gpu.md says what is measured. Arguments go to bench/accelerator.py: --only, --json, --again, --size.
#
#   launch/gpu_check.sh                             # everything; a run that is cut goes on where it stopped
#   launch/gpu_check.sh --only correctness encode
#   launch/gpu_check.sh --device cpu --size tiny    # no GPU: runs through, to test the program itself
#
# Exit code: 0; 1 when results are wrong, a section fails or a goal is missed; 2 without accelerator or packages.
set -euo pipefail
cd "$(dirname "$0")/.."

# A GPU process gets at most what a card of 80 GB would give it, however large the card is.
HELD_GB=80

if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi

missing=$("$PYTHON" -c '
from importlib.util import find_spec
needed = ("jax", "flax", "numpy", "ml_dtypes", "jaxtyping", "tokenizers", "safetensors", "PIL")
print(*(name for name in needed if find_spec(name) is None))
') || { echo "gpu_check: $PYTHON does not run: name a Python of 3.11 to 3.13 in PYTHON" >&2; exit 2; }
if [ -n "$missing" ]; then
  echo "gpu_check: $PYTHON lacks $missing: docs/gpu.md says what to install, or name another Python in PYTHON" >&2
  exit 2
fi

if command -v nvidia-smi > /dev/null; then
  card=${CUDA_VISIBLE_DEVICES-0}
  card=${card%%,*}
  export CUDA_VISIBLE_DEVICES="$card" # one is measured
  if [ -z "${XLA_PYTHON_CLIENT_MEM_FRACTION:-}" ]; then
    mib=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits --id="$card") || mib=
    if [[ "$mib" =~ ^[0-9]+$ ]]; then
      # Rounded down; 95 % at most, for libraries take memory beside jax's.
      XLA_PYTHON_CLIENT_MEM_FRACTION=$(awk -v mib="$mib" -v gb="$HELD_GB" 'BEGIN {
        share = gb * 1e9 / (mib * 1048576); if (share > 0.95) share = 0.95; printf "%.4f", int(share * 10000) / 10000 }')
      export XLA_PYTHON_CLIENT_MEM_FRACTION
    else
      echo "gpu_check: nvidia-smi does not tell the memory of card $card: it is not held to $HELD_GB GB" >&2
    fi
  fi
  echo "gpu_check: card $card, XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-unset}"
fi

exec "$PYTHON" -m bench.accelerator "$@"
