"""Prompts of Qwen 3 Coder: ChatML with tools and calls as XML elements."""

from ...go import encode
from ...go import text as go_text
from ..gotemplate import Values, api_values

_ROLE = "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks."
_BEFORE_TOOLS = "\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>"
_AFTER_TOOLS = """
</tools>

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested \
within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge \
and do not tell the user about function calls
</IMPORTANT>"""


def render(values: Values) -> str:
    """Write the prompt. Only the first system message is kept. A final assistant message without calls is continued."""
    system = next(
        (message["content"] for message in values.messages if message["role"] == "system" and message.get("content")),
        "",
    )
    messages = [message for message in values.messages if message["role"] != "system"]
    parts = []
    if system or values.tools:
        parts.append("<|im_start|>system\n" + (system or _ROLE) + _tools(values.tools) + "<|im_end|>\n")
    for index, message in enumerate(messages):
        before = messages[index - 1]["role"] if index else ""
        following = messages[index + 1]["role"] if index + 1 < len(messages) else ""
        role, content = message["role"], message.get("content") or ""
        if role == "tool":
            parts.append("" if before == "tool" else "<|im_start|>user\n")
            parts.append(f"<tool_response>\n{content}\n</tool_response>\n")
            parts.append("" if following == "tool" else "<|im_end|>\n")
            continue
        calls = "".join(map(_call, message.get("tool_calls") or ()))
        gap = "\n" if content and calls else ""
        is_prefill = role == "assistant" and not following and not calls
        parts.append(f"<|im_start|>{role}\n{content}{gap}{calls}" + ("" if is_prefill else "<|im_end|>\n"))
    if messages and messages[-1]["role"] != "assistant":
        parts.append("<|im_start|>assistant\n")
    return "".join(parts)


def _tools(tools: list[dict] | None) -> str:
    if not tools:
        return ""
    return _BEFORE_TOOLS + "".join(map(_tool, tools)) + _AFTER_TOOLS


def _tool(tool: dict) -> str:
    function = tool["function"]
    parameters = function.get("parameters") or {}
    text = f"\n<function>\n<name>{function['name']}</name>"
    if function.get("description"):
        text += f"\n<description>{function['description']}</description>"
    text += "\n<parameters>"
    for name, prop in (parameters.get("properties") or {}).items():
        text += f"\n<parameter>\n<name>{name}</name>"
        if prop.get("type"):
            text += f"\n<type>{api_values.property_typescript(prop)}</type>"
        if prop.get("description"):
            text += f"\n<description>{prop['description']}</description>"
        for key in ("anyOf", "items", "enum"):
            if prop.get(key):
                text += f"\n<{key}>{encode.dumps(prop[key])}</{key}>"
        text += "\n</parameter>"
    for key in ("$defs", "items", "required"):
        if parameters.get(key):
            text += f"\n<{key}>{encode.dumps(parameters[key])}</{key}>"
    return text + "\n</parameters>\n</function>"


def _call(call: dict) -> str:
    function = call["function"]
    arguments = "".join(
        f"\n<parameter={name}>\n{_value(value)}\n</parameter>"
        for name, value in (function.get("arguments") or {}).items()
    )
    return f"\n<tool_call>\n<function={function['name']}>{arguments}\n</function>\n</tool_call>"


def _value(value: object) -> str:
    return "null" if value is None else encode.dumps(value) if isinstance(value, (dict, list)) else go_text.value(value)
