"""Prompts of Qwen 3 VL: ChatML with tools and calls as JSON. The thinking variant begins each answer with thinking."""

from ...go import encode
from ..gotemplate import Values

_BEFORE_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
_AFTER_TOOLS = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
"""


def render(values: Values, *, thinks: bool) -> str:
    """Write the prompt. A final assistant message is continued. Thinking is shown only after the last question."""
    messages = values.messages
    parts = []
    begins_with_system = bool(messages) and messages[0]["role"] == "system"
    if values.tools:
        system = f"{messages[0]['content']}\n\n" if begins_with_system else ""
        parts.append(
            "<|im_start|>system\n"
            + system
            + _BEFORE_TOOLS
            + "".join("\n" + spaced_json(tool) for tool in values.tools)
            + _AFTER_TOOLS
        )
    last_question = max(
        (index for index, message in enumerate(messages) if _is_question(message)), default=len(messages) - 1
    )
    for index, message in enumerate(messages):
        role, is_last = message["role"], index == len(messages) - 1
        if role == "system" and index == 0 and values.tools:
            continue
        content = "[img]" * len(message.get("images") or ()) + (message.get("content") or "")
        if role == "tool":
            parts.append("" if index and messages[index - 1]["role"] == "tool" else "<|im_start|>user")
            parts.append(f"\n<tool_response>\n{content}\n</tool_response>")
            parts.append("" if not is_last and messages[index + 1]["role"] == "tool" else "<|im_end|>\n")
        elif role == "assistant":
            thoughts = _thoughts(message, is_last) if thinks and index > last_question else ""
            shown = thoughts + (content.lstrip("\n") if thoughts else content)
            parts.append(
                f"<|im_start|>assistant\n{shown}{_calls(message, bool(content))}" + ("" if is_last else "<|im_end|>\n")
            )
        else:
            parts.append(f"<|im_start|>{role}\n{content}<|im_end|>\n")
    if messages and messages[-1]["role"] != "assistant":
        parts.append("<|im_start|>assistant\n" + ("<think>\n" if thinks else ""))
    return "".join(parts)


def _is_question(message: dict) -> bool:
    content = message.get("content") or ""
    return message["role"] == "user" and not (
        content.startswith("<tool_response>") and content.endswith("</tool_response>")
    )


def _thoughts(message: dict, is_last: bool) -> str:
    """Write the thinking. Without content it stays open, so the model continues it."""
    thoughts = (message.get("thinking") or "").strip("\n")
    if not is_last and not thoughts:
        return ""
    return f"<think>\n{thoughts}" + ("\n</think>\n\n" if message.get("content") else "")


def _calls(message: dict, has_content: bool) -> str:
    return "".join(
        ("\n" if has_content or index else "") + f'<tool_call>\n{{"name": "{call["function"]["name"]}", "arguments": '
        f"{spaced_json(call['function'].get('arguments') or {})}}}\n</tool_call>"
        for index, call in enumerate(message.get("tool_calls") or ())
    )


def spaced_json(value: object) -> str:
    """Write JSON as Go does, with a space after each colon and comma."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{encode.dumps(name)}: {spaced_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spaced_json, value)) + "]"
    return encode.dumps(value)
