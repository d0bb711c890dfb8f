"""What a dedicated Inference Endpoint runs: base model + this repository's adapter, `{"inputs"}` in, text out.

It lies beside the adapter in the repository, and is all that the Endpoint gets of ELM's code: it needs transformers and
peft, and takes bitsandbytes if it is there. It answers as `elm serve` does, so a client changes one address.
"""

import json
import os
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

SYSTEM = "You are ELM, the assistant of an online shop. The customer is not signed in."  # as in training
DATE = "26 Jul 2024"  # Llama's template prints a date; in training it was this one
ROLES = {"system", "user", "assistant", "tool"}
MOST_TOKENS = 1024


class EndpointHandler:
    """The class that an Endpoint looks for; `path` is the folder of the repository."""

    def __init__(self, path: str = "") -> None:
        config = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
        options = {"dtype": torch.float32}
        if torch.cuda.is_available():
            options = {"dtype": torch.bfloat16, "device_map": "auto"}
        if os.environ.get("LOAD_IN_4BIT"):  # for a small GPU; the adapter was trained on these rounded weights
            nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_compute_dtype=options["dtype"], **nf4
            )
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"], **options)
        self.model = PeftModel.from_pretrained(base, path).eval()
        self.special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    def __call__(self, data: dict) -> list[dict]:
        """Answer ``{"inputs": text or messages, "parameters": {"max_new_tokens", "temperature"}}``.

        Raises:
            ValueError: A field is wrong; the Endpoint answers 400 with the message.
        """
        messages, wanted = self.read_messages(data.get("inputs")), data.get("parameters") or {}
        try:
            tokens, heat = int(wanted.get("max_new_tokens") or 200), float(wanted.get("temperature") or 0.0)
        except (AttributeError, OverflowError, TypeError, ValueError):
            raise ValueError("parameters takes the numbers max_new_tokens and temperature") from None
        if not (1 <= tokens and 0 <= heat <= 2):
            raise ValueError("max_new_tokens is at least 1, temperature lies between 0 and 2")
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, date_string=DATE
        )
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).to(self.model.device)
        sampling = {"do_sample": True, "temperature": heat} if heat else {"do_sample": False}
        limits = {"max_new_tokens": min(tokens, MOST_TOKENS), "pad_token_id": self.tokenizer.eos_token_id}
        limits["eos_token_id"] = self.tokenizer.eos_token_id
        with torch.no_grad():
            out = self.model.generate(**ids, **limits, **sampling)
        new = out[0, ids["input_ids"].shape[1] :]
        return [{"generated_text": self.tokenizer.decode(new, skip_special_tokens=True)}]

    def read_messages(self, inputs: object) -> list[dict]:
        """Return the conversation as in training: a system prompt first, typed special tokens made harmless."""
        if isinstance(inputs, str) and inputs:
            inputs = [{"role": "user", "content": inputs}]
        if not isinstance(inputs, list) or not inputs:
            raise ValueError('inputs is a text, or messages such as [{"role": "user", "content": "hello"}]')
        messages = []
        for number, message in enumerate(inputs):
            role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
            if role not in ROLES or not isinstance(content, str):
                raise ValueError(f"inputs[{number}] needs a role of {sorted(ROLES)} and a text as content")
            for token in self.special:
                content = content.replace(token, f"{token[0]} {token[1:]}")
            messages.append({"role": role, "content": content})
        return messages if messages[0]["role"] == "system" else [{"role": "system", "content": SYSTEM}, *messages]
