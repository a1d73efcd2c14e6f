#!/bin/sh
# Shows on a CPU that the device tests and gpu_jobs.py run with the packages of a lent GPU machine alone:
#     scripts/bare_gpu_machine.sh [FOLDER]        needs Python 3.12 as python3.12, or its path in $PYTHON
set -eu
folder=${1:-$(mktemp -d)}
cd "$(dirname "$0")/.."
"${PYTHON:-python3.12}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.11.2 flax optax numpy jaxtyping scipy statsmodels nvidia-ml-py matplotlib \
    rich filelock pytest pytest-xdist chex pillow
export JAX_PLATFORMS=cpu PYTHONPATH="$PWD"
"$folder/venv/bin/python" -m pytest tests/device --device-dry-run -q -n 2
"$folder/venv/bin/python" benchmarks/gpu_jobs.py --dry-run --results "$folder/results" \
    --jobs ceilings energy tests steps seeds own compilation memory # users and cifar need tyro: carry its wheel
