"""The server that real clients talk to: in a process of its own, with SmolLM2 under the names `smollm2` and
`caller`.

    with serving(folder) as url: ...

`caller` has a template with tools, whose calls begin with `{`: held to the schema CALL, it calls a tool whatever its
size.
"""

import math
from contextlib import contextmanager

import ollama
from live_server import LiveServer
from starter_models import model_path

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
CITY = {"type": "string", "enum": ["Paris", "Rome"]}
SCHEMA = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}
CALL = {
    "type": "object",
    "properties": {"name": {"const": "get_weather"}, "arguments": SCHEMA},
    "required": ["name", "arguments"],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SHOWN_CALL = '{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}'
TEMPLATE = """{{- if .Tools }}<|im_start|>system
Tools: {{ range .Tools }}{{ . }}
{{ end }}<|im_end|>
{{ end }}{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .ToolCalls }}{{ range .ToolCalls }}SHOWN_CALL{{ end }}
{{- else }}{{ .Content }}{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
""".replace("SHOWN_CALL", SHOWN_CALL)


@contextmanager
def serving(folder):
    """The server's URL. Skips by name where the model is not there."""
    path = model_path("smollm2")
    with LiveServer(folder / "models", environment={"OLLAMA_VULKAN": "1"}) as server:
        client = ollama.Client(server.url)
        digest = client.create_blob(str(path))
        client.create("smollm2", files={path.name: digest})
        client.create("caller", from_="smollm2", template=TEMPLATE)
        yield server.url


def cosine(one, other) -> float:
    return sum(a * b for a, b in zip(one, other)) / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def check_logprobs(entries):
    """Entries of the answer to QUESTION, of its first tokens: objects or dicts as a client gives them."""

    def field(entry, name):
        return entry[name] if isinstance(entry, dict) else getattr(entry, name)

    assert "".join(field(entry, "token") for entry in entries) == ANSWER
    for entry in entries:
        top = [field(other, "logprob") for other in field(entry, "top_logprobs")]
        assert len(top) == 2 and top[0] == field(entry, "logprob") < 0 and top[1] < top[0]
    assert abs(field(entries[1], "logprob") + 0.007) < 0.01  # " capital", as Ollama gives it
