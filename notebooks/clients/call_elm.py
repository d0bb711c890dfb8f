"""Ask ELM over HTTP with `requests`, in the seed's form: text in, text out."""

import os

import requests

url = os.environ.get("ELM_URL", "http://127.0.0.1:8000")
key = os.environ.get("ELM_API_KEY")
headers = {"Authorization": f"Bearer {key}"} if key else {}
body = {"inputs": "Find wireless headphones under $100", "parameters": {"max_new_tokens": 100}}

answer = requests.post(url, json=body, headers=headers, timeout=60)
answer.raise_for_status()
print(answer.json()[0]["generated_text"])
