"""JSON schemas of the dataclasses in `wire`, from the kinds of their fields.

In: classes and kinds. Out: schemas, with each class once under `components`, by its name (`openai.` in front of
those of /v1).
"""

from dataclasses import fields

from ..go import binding, kinds
from ..wire import conversation, native, openai

REFERENCE = "#/components/schemas/"
TEXT, FLAG, WHOLE, NUMBER, ANYTHING = (
    {"type": "string"},
    {"type": "boolean"},
    {"type": "integer", "format": "int64"},
    {"type": "number"},
    {},
)
NUMBERS = {"type": "array", "items": NUMBER}
TEXTS = {"oneOf": [TEXT, {"type": "array", "items": TEXT}]}
# What a field takes where its kind does not tell: (class, JSON name) -> schema.
FORMAT = {
    "oneOf": [{"const": "json"}, {"type": "object", "description": "a JSON schema"}, {"const": ""}, {"type": "null"}]
}
STOP = {"oneOf": [TEXT, {"type": "array", "items": TEXT}, {"type": "null"}]}
OPTIONS = {
    "type": ["object", "null"],
    "additionalProperties": True,
    "description": "temperature, top_k, seed, num_predict, num_ctx and the others "
    "of a Modelfile's PARAMETER; logit_bias: {token id: bias}",
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
    "description": "of a stream: while the model is loaded, lines of LoadProgressResponse (at most ten a second) come "
    "before the "
    "answer; errors are then lines, too"
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
SPECIAL = {
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
# Names that older clients use for another field of the same request.
DEPRECATED = {"name", "quantization"}


class Schemas:
    """`of(kind)` -> a schema; `components` fills up with the classes that were met."""

    def __init__(self):
        self.components: dict[str, dict] = {}

    def of_class(self, cls) -> dict:
        name = component_name(cls)
        if name not in self.components:
            self.components[name] = {}  # a class may hold itself
            self.components[name] = self._object(cls)
        return {"$ref": REFERENCE + name}

    def of(self, kind) -> dict:
        if isinstance(kind, binding.Struct):
            return self.of_class(kind.cls)
        if isinstance(kind, binding.Pointer):
            return nullable(self.of(kind.inner))
        if isinstance(kind, binding.ListOf):
            return nullable({"type": "array", "items": self.of(kind.inner)})
        if isinstance(kind, binding.MapOf):
            return nullable({"type": "object", "additionalProperties": self.of(kind.inner)})
        return next(schema for plain, schema in PLAIN if isinstance(kind, type(plain)))

    def _object(self, cls) -> dict:
        properties, required = {}, []
        for field in fields(cls):
            name, is_request = field.metadata["name"], cls.__name__.endswith("Request")
            properties[name] = SPECIAL.get((cls, name)) or self.of(field.metadata["kind"])
            if is_request and name in DEPRECATED:
                properties[name] = properties[name] | {"deprecated": True}
            if name in ("model", "source", "destination") if is_request else not field.metadata["omit_empty"]:
                required.append(name)
        described = (
            {}
            if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}(")
            else {"description": " ".join(cls.__doc__.split())}
        )
        return (
            {"type": "object", "properties": properties}
            | ({"required": required} if required and is_top_level(cls) else {})
            | described
        )


PLAIN = [  # the first one that fits; kinds derived from others come first
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
        {"type": ["string", "number"], "description": "such as 5m or 1h30m, or seconds; negative: for ever"},
    ),
    (kinds.THINK, {"enum": [True, False, "high", "medium", "low"]}),
    (conversation.PROPERTY_TYPE, TEXTS),
    (openai.PROMPT, PROMPT),
]


def nullable(schema: dict) -> dict:
    if not schema:
        return schema
    if isinstance(schema.get("type"), str):
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def is_top_level(cls) -> bool:
    """Parts of requests are looked at leniently, as Go does: nothing in them is required."""
    return cls.__name__.endswith(
        ("Request", "Response", "Completion", "Chunk", "List", "Model", "ListedModel", "RunningModel")
    )


def component_name(cls) -> str:
    return ("openai." if cls.__module__ == openai.__name__ else "") + cls.__name__
