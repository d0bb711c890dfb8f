"""ELM's tool calls for vLLM: `<tool_call>name(key="value")</tool_call>` in, OpenAI's `tool_calls` out.

    vllm serve HuggingFaceTB/SmolLM2-135M-Instruct --enable-lora --max-lora-rank 16 --lora-modules elm=ADAPTER \
        --enable-auto-tool-choice --tool-parser-plugin vllm_tool_parser.py --tool-call-parser elm

The file stands alone, because vLLM's environment has nothing of ELM's; it is written against vLLM 0.32. A call is read as
syntax and never evaluated. What is no well-formed call stays text, so that nothing is lost.
"""

import ast
import json

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.tool_parsers import ToolParser, ToolParserManager

OPEN, CLOSE = "<tool_call>", "</tool_call>"
LONGEST = 4000  # characters of a call; no honest one is longer, and Python's parser is not made for hostile text


def read_call(text: str) -> tuple[str, str] | None:
    """Return the name and the arguments as JSON of what stands between the tags; None is no well-formed call."""
    try:
        call = ast.parse(text.strip() if len(text) <= LONGEST else "", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
            return None
        arguments = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
        return None if None in arguments else (call.func.id, json.dumps(arguments, allow_nan=False))
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return None


def split_reply(text: str) -> tuple[str, list[tuple[str, str]], str]:
    """Return a reply's prose, its calls, and the end that may still become a call."""
    prose, calls = "", []
    while OPEN in text:
        before, _, rest = text.partition(OPEN)
        inside, closed, after = rest.partition(CLOSE)
        prose += before
        if not closed:
            return prose, calls, OPEN + rest
        call = read_call(inside)
        calls += [call] if call else []
        prose += "" if call else OPEN + inside + CLOSE
        text = after
    held = next((n for n in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:n])), 0)
    return prose + text[: len(text) - held], calls, text[len(text) - held :]


class ElmToolParser(ToolParser):
    """What ``--tool-call-parser elm`` names."""

    supports_required_and_named = False  # the model writes its own form, and is never forced into JSON

    def extract_tool_calls(self, model_output: str, request) -> ExtractedToolCallInformation:
        prose, calls, rest = split_reply(model_output)
        if not calls:
            return ExtractedToolCallInformation(tools_called=False, tool_calls=[], content=model_output)
        listed = [ToolCall(function=FunctionCall(name=name, arguments=arguments)) for name, arguments in calls]
        content = (prose + rest).strip() or None
        return ExtractedToolCallInformation(tools_called=True, tool_calls=listed, content=content)

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids,
        current_token_ids,
        delta_token_ids,
        request,
    ) -> DeltaMessage | None:
        """Return what is new: prose at once, a call when it is whole; a call that is never closed is not sent."""
        old_prose, old_calls, _ = split_reply(previous_text)
        prose, calls, _ = split_reply(current_text)
        deltas = []
        for index, (name, arguments) in enumerate(calls[len(old_calls) :], len(old_calls)):
            self.prev_tool_call_arr.append({"name": name, "arguments": json.loads(arguments)})
            self.streamed_args_for_tool.append(arguments)
            self.current_tool_id = index
            call = ToolCall(function=FunctionCall(name=name, arguments=arguments))  # for its id
            function = DeltaFunctionCall(name=name, arguments=arguments)
            deltas.append(DeltaToolCall(id=call.id, type="function", index=index, function=function))
        content = prose[len(old_prose) :] or None
        return DeltaMessage(content=content, tool_calls=deltas) if content or deltas else None


ToolParserManager.register_module("elm", module=ElmToolParser)
