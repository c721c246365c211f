"""JSON schemas of the dataclasses in `wire`, from the kinds of their fields.

In: classes and kinds. Out: schemas; each class is once under `components`, by its name (with the prefix `openai.`
for those of /v1).
"""

from dataclasses import fields
from typing import Any

from ..go import binding, kinds
from ..wire import conversation, native, openai

REFERENCE = "#/components/schemas/"
TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}
WHOLE: dict[str, Any] = {"type": "integer", "format": "int64"}
NUMBER: dict[str, Any] = {"type": "number"}
ANYTHING: dict[str, Any] = {}
NUMBERS = {"type": "array", "items": NUMBER}
TEXTS = {"oneOf": [TEXT, {"type": "array", "items": TEXT}]}
# Schemas of fields whose kind is not specific enough; SPECIAL assigns them.
FORMAT = {
    "oneOf": [{"const": "json"}, {"type": "object", "description": "a JSON schema"}, {"const": ""}, {"type": "null"}]
}
STOP = {"oneOf": [TEXT, {"type": "array", "items": TEXT}, {"type": "null"}]}
OPTIONS = {
    "type": ["object", "null"],
    "additionalProperties": True,
    "description": "temperature, top_k, seed, num_predict, num_ctx and the other parameters of a Modelfile; "
    "logit_bias: {token id: bias}",
    "properties": {
        "temperature": NUMBER,
        "top_k": WHOLE,
        "top_p": NUMBER,
        "min_p": NUMBER,
        "seed": WHOLE,
        "num_predict": WHOLE,
        "num_ctx": WHOLE,
        "num_gpu": WHOLE,
        "repeat_penalty": NUMBER,
        "stop": {"type": "array", "items": TEXT},
        "logit_bias": {"type": "object"},
    },
}
LOAD_PROGRESS = FLAG | {
    "description": "in a stream: LoadProgressResponse lines (at most ten per second) before the answer, while the "
    "model is loaded; errors then come as lines, too"
}
TOP_LOGPROBS = WHOLE | {"minimum": 0, "maximum": 20}
CONTENT = {
    "oneOf": [
        TEXT,
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type"],
                "properties": {
                    "type": {"enum": ["text", "image_url"]},
                    "text": TEXT,
                    "image_url": {"oneOf": [TEXT, {"type": "object", "properties": {"url": TEXT}}]},
                },
            },
        },
        {"type": "null"},
    ]
}
PROMPT = {
    "oneOf": [TEXT, {"type": "array", "items": {}}],
    "description": "a text, a list of texts, a list of token ids, or a list of lists of token ids",
}
# (class, JSON name) -> schema
SPECIAL: dict[tuple[type, str], dict[str, Any]] = {
    **{
        (cls, "options"): OPTIONS
        for cls in (native.GenerateRequest, native.ChatRequest, native.EmbedRequest, native.EmbeddingRequest)
    },
    **{(cls, "format"): FORMAT for cls in (native.GenerateRequest, native.ChatRequest)},
    **{
        (cls, "top_logprobs"): TOP_LOGPROBS
        for cls in (native.GenerateRequest, native.ChatRequest, openai.ChatCompletionRequest)
    },
    **{(cls, "stop"): STOP for cls in (openai.ChatCompletionRequest, openai.CompletionRequest)},
    **{(cls, "logprob"): NUMBER for cls in (native.TokenLogprob, native.Logprob)},
    **{(cls, "load_progress"): LOAD_PROGRESS for cls in (native.GenerateRequest, native.ChatRequest)},
    (native.EmbedRequest, "input"): TEXTS,
    (openai.EmbedRequest, "input"): TEXTS,
    (openai.EmbedRequest, "encoding_format"): {
        "type": ["string", "null"],
        "description": "float or base64, in any case",
    },
    (native.EmbedResponse, "embeddings"): {"type": "array", "items": NUMBERS},
    (openai.Embedding, "embedding"): {"oneOf": [NUMBERS, TEXT | {"format": "byte"}]},
    (openai.Message, "content"): CONTENT,
    (openai.CompletionRequest, "prompt"): PROMPT,
    (openai.ResponseFormat, "type"): {"enum": ["text", "json_object", "json_schema"]},
    (openai.LegacyLogprobs, "token_logprobs"): {"type": "array", "items": {"type": ["number", "null"]}},
    (openai.LegacyLogprobs, "top_logprobs"): {
        "type": ["array", "null"],
        "items": {"type": ["object", "null"], "additionalProperties": NUMBER},
    },
    (native.CreateRequest, "license"): TEXTS,
}
# Fields that older clients send in place of another one.
DEPRECATED = {"name", "quantization"}


class Schemas:
    """Makes schemas, and collects the classes they refer to in `components`."""

    def __init__(self) -> None:
        self.components: dict[str, dict] = {}

    def of_class(self, cls: type) -> dict:
        """A reference to the component of `cls`."""
        name = component_name(cls)
        if name not in self.components:
            self.components[name] = {}  # ends the recursion of a class that contains itself
            self.components[name] = self._object(cls)
        return {"$ref": REFERENCE + name}

    def of(self, kind: kinds.Kind[Any]) -> dict:
        """The schema of a field of this kind."""
        if isinstance(kind, binding.Struct):
            return self.of_class(kind.cls)
        if isinstance(kind, binding.Pointer):
            return nullable(self.of(kind.inner))
        if isinstance(kind, binding.ListOf):
            return nullable({"type": "array", "items": self.of(kind.inner)})
        if isinstance(kind, binding.MapOf):
            return nullable({"type": "object", "additionalProperties": self.of(kind.inner)})
        return next(schema for plain, schema in PLAIN if isinstance(kind, type(plain)))

    def _object(self, cls: type) -> dict:
        properties, required = {}, []
        is_request = cls.__name__.endswith("Request")
        for field in fields(cls):
            name = field.metadata["name"]
            properties[name] = SPECIAL.get((cls, name)) or self.of(field.metadata["kind"])
            if is_request and name in DEPRECATED:
                properties[name] = properties[name] | {"deprecated": True}
            if name in ("model", "source", "destination") if is_request else not field.metadata["omit_empty"]:
                required.append(name)
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if required and is_top_level(cls):
            schema["required"] = required
        if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("):  # written, not made by @dataclass
            schema["description"] = " ".join(cls.__doc__.split())
        return schema


# The first match counts, so subclasses come before their base.
PLAIN: list[tuple[kinds.Kind[Any], dict[str, Any]]] = [
    (kinds.TIME, TEXT | {"format": "date-time"}),
    (kinds.STRING, TEXT),
    (kinds.BOOL, FLAG),
    (kinds.INT, WHOLE),
    (kinds.FLOAT, NUMBER),
    (kinds.ANY, ANYTHING),
    (kinds.RAW, ANYTHING),
    (kinds.BYTES, TEXT | {"format": "byte", "description": "base64"}),
    (
        kinds.DURATION,
        {"type": ["string", "number"], "description": "such as 5m or 1h30m, or seconds; negative: forever"},
    ),
    (kinds.THINK, {"enum": [True, False, "high", "medium", "low"]}),
    (conversation.PROPERTY_TYPE, TEXTS),
    (openai.PROMPT, PROMPT),
]


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, with null allowed."""
    if not schema:
        return schema
    if isinstance(schema.get("type"), str):
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def is_top_level(cls: type) -> bool:
    """Whether `cls` is a whole request or answer. Nothing is required in the nested parts, as in Go."""
    return cls.__name__.endswith(
        ("Request", "Response", "Completion", "Chunk", "List", "Model", "ListedModel", "RunningModel")
    )


def component_name(cls: type) -> str:
    """Name of a class under `components`."""
    return ("openai." if cls.__module__ == openai.__name__ else "") + cls.__name__
