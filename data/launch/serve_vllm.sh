#!/bin/bash
# One replica of vLLM on each GPU, all with the adapter, on ports from 8001 up; router.conf spreads requests over them.
# vLLM wants an environment of its own (`pip install vllm`): it pins other versions than this course.
# REPLICAS=2 bash data/launch/serve_vllm.sh
# nginx -c "$PWD/data/launch/router.conf"
# .venv/bin/elm serve --model elm --engine http://127.0.0.1:8080/v1
set -euo pipefail
ADAPTER="${ADAPTER:-outputs/elm-llama-8b}"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for ((gpu = 0; gpu < ${REPLICAS:-2}; gpu++)); do
  CUDA_VISIBLE_DEVICES=$gpu vllm serve meta-llama/Llama-3.1-8B-Instruct --enable-lora --max-lora-rank 16 \
    --lora-modules "elm=$ADAPTER" --max-model-len 4096 --enable-prefix-caching --port $((8001 + gpu)) &
done
wait -n # when one replica ends, all end, and whoever watches this script starts them again
