"""Ask ELM with the `openai` library: the tool call comes as data, and is written out as ELM writes it."""

import json
import os

from openai import OpenAI

url = os.environ.get("ELM_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("ELM_API_KEY") or "none", timeout=60)
question = {"role": "user", "content": "Find wireless headphones under $100"}

answer = client.chat.completions.create(model="elm", messages=[question], max_tokens=100, temperature=0)
message = answer.choices[0].message
if message.content:
    print(message.content)
for call in message.tool_calls or []:
    arguments = json.loads(call.function.arguments)
    listed = ", ".join(f"{name}={json.dumps(value)}" for name, value in arguments.items())
    print(f"<tool_call>{call.function.name}({listed})</tool_call>")
