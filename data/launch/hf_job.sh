#!/bin/bash
# Data, training and publishing on one rented A100, as a Hugging Face Job. It needs `hf auth login`, a plan that has
# Jobs, access to the Llama weights, and it costs money by the minute.
# bash data/launch/hf_job.sh --dry-run    shows the job; without --dry-run it starts.
set -euo pipefail
hf jobs run "$@" --flavor a100-large --timeout 2h --secrets HF_TOKEN python:3.12 bash -ec '
  git clone --depth 1 https://github.com/askcatalystai/elm /elm
  cd /elm
  make setup
  .venv/bin/elm generate --rows 4000
  .venv/bin/elm train --profile gpu
  .venv/bin/elm push --model outputs/elm-llama-8b --yes'
