"""Ask ELM with the Hub's own client: it takes any address, an Inference Endpoint's or this machine's."""

import json
import os

from huggingface_hub import InferenceClient

url = os.environ.get("ELM_URL", "http://127.0.0.1:8000")
client = InferenceClient(base_url=f"{url}/v1", api_key=os.environ.get("ELM_API_KEY") or "none", timeout=60)
question = {"role": "user", "content": "Find wireless headphones under $100"}

answer = client.chat_completion([question], model="elm", max_tokens=100, temperature=0)
message = answer.choices[0].message
if message.content:
    print(message.content)
for call in message.tool_calls or []:
    arguments = json.loads(call.function.arguments)
    listed = ", ".join(f"{name}={json.dumps(value)}" for name, value in arguments.items())
    print(f"<tool_call>{call.function.name}({listed})</tool_call>")
