#!/bin/sh
# All that needs a GPU, in under eight minutes and without a network: sh tests/gpu/run.sh FOLDER [SHAPE ...]
# FOLDER gets gpu.json and gpu.png, and the chapters 01, 03 and 04 as they ran on rim-mini.
set -e
folder=${1:?give a folder for the results}
shift
export HF_HUB_OFFLINE=1 TQDM_DISABLE=1
python3 "$(dirname "$0")/measure.py" "$folder" "$@"
python3 -m rimkit run 01 03 04 --out "$folder/chapters" --no-page
