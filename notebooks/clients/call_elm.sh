#!/bin/sh
# Ask ELM with cURL: `sh call_elm.sh`. The last line takes the text out of [{"generated_text":"…"}], as jq -r '.[0].generated_text' does.
set -eu
body='{"inputs": "Find wireless headphones under $100", "parameters": {"max_new_tokens": 100}}'

answer=$(curl --silent --show-error --fail-with-body --max-time 60 "${ELM_URL:-http://127.0.0.1:8000}" \
  --header "Content-Type: application/json" --header "Authorization: Bearer ${ELM_API_KEY:-none}" --data "$body")
printf '%s\n' "$answer" | sed -e 's/^\[{"generated_text":"//' -e 's/"}\]$//' -e 's/\\"/"/g'
