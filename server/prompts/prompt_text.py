"""Builds the prompt of a request: selects the messages that fit the context, places images, runs the template.

Messages are never changed. The caller passes a function that counts tokens, so this module does not know the model.
Follows Ollama 0.12.11's chatPrompt and GenerateHandler as recorded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from vkbackend.tokenizer import Tokenizer
from vkbackend.tokenizer.long_texts import encode_at_most

from .. import garbage
from ..go import encode
from ..go.kinds import loads
from ..wire.conversation import Message, Tool, ToolCall
from .fitting import first_fitting
from .gotemplate import Values

ONE_IMAGE_ONLY = "this model only supports one image while more than one image requested"
TOKENS_PER_IMAGE = 768  # tokens counted for one image if the model sees images


class PromptError(Exception):
    """The request's messages cannot become a prompt."""


class PromptTemplate(Protocol):
    """A Go template, a Jinja template or a built-in renderer."""

    def execute(self, values: Values) -> str:
        """Write the prompt. Raises TemplateError."""
        ...


@dataclass(frozen=True)
class Prompt:
    """A prompt. `[img-N]` in the text stands for images[N], the bytes of an image file (None: an empty image)."""

    text: str
    images: list[bytes | None] = field(default_factory=list)


@dataclass(frozen=True)
class Thinking:
    """The request's `think`, as templates see it. asked None: the request does not set it."""

    asked: bool | str | None = None

    def values(self) -> dict:
        """Return the fields of `Values` that say whether to think."""
        level = self.asked if isinstance(self.asked, str) else "medium" if self.asked else ""
        return {"think": bool(self.asked), "think_level": level, "is_think_set": self.asked is not None}


@dataclass(frozen=True)
class ContextLimit:
    """At most num_ctx tokens, counted by `count_tokens(text)`.

    truncate False: keep every message. sees_images: count TOKENS_PER_IMAGE for each image.
    """

    num_ctx: int
    count_tokens: Callable[[str], int]
    truncate: bool = True
    sees_images: bool = False


def count_tokens(tokenizer: Tokenizer, text: str, most: int) -> int:
    """Count the tokens of a text: exact up to `most`; for a longer text, some number above `most`."""
    return len(encode_at_most(tokenizer, text, most + 1, most + 1, add_special=False))


def chat_prompt(
    template: PromptTemplate,
    messages: list[Message],
    limit: ContextLimit,
    *,
    tools: list | None = None,
    thinking: Thinking = Thinking(),
    one_image_only: bool = False,
) -> Prompt:
    """Build the prompt of a conversation.

    If it is too long, the oldest messages are dropped; system messages and the last message stay. A template with
    `marks_images` places the images itself. Raises PromptError, and TemplateError from the template.
    """
    if one_image_only and any(len(message.images or ()) > 1 for message in messages):
        raise PromptError(ONE_IMAGE_ONLY)
    tool_values = None if tools is None else [_plain(tool) for tool in tools]

    def render(kept: list[Message]) -> str:
        return template.execute(
            Values(messages=[_template_message(message) for message in kept], tools=tool_values, **thinking.values())
        )

    system, first = _fitting(messages, limit, render)
    kept = messages[first:]
    images = [image for message in kept for image in message.images or ()]
    if not getattr(template, "marks_images", False):
        kept, images = _tag_images(kept)
    return Prompt(render(system + kept), images)


def _fitting(
    messages: list[Message], limit: ContextLimit, render: Callable[[list[Message]], str]
) -> tuple[list[Message], int]:
    """Return (system messages among the dropped ones, index of the first message kept).

    Ollama's rule: everything if that fits; else messages are added from the last one backwards up to the first that
    makes the prompt too long. `fitting.first_fitting` finds it without counting each of these prompts.
    """

    def system_before(first: int) -> list[Message]:
        return [message for message in messages[:first] if message.role == "system"]

    def size(first: int) -> int:
        count = limit.count_tokens(render(system_before(first) + messages[first:]))
        if limit.sees_images:
            count += TOKENS_PER_IMAGE * sum(len(message.images or ()) for message in messages[first:])
        return count

    if not limit.truncate or not messages or size(0) <= limit.num_ctx:
        return [], 0
    last = len(messages) - 1
    if size(last) > limit.num_ctx:
        return system_before(last), last
    first = first_fitting([len(message.content) for message in messages], limit.num_ctx, size)
    return system_before(first - 1), first


def _tag_images(messages: list[Message]) -> tuple[list[Message], list[bytes | None]]:
    """Return (messages with an `[img-N]` tag for each image, all images).

    A tag replaces the next `[img]` in the content; without one it goes to the front.
    """
    tagged: list[Message] = []
    images: list[bytes | None] = []
    for message in messages:
        front, content = "", message.content
        for image in message.images or ():
            tag = f"[img-{len(images)}]"
            if "[img]" in content:
                content = content.replace("[img]", tag, 1)
            else:
                front += tag
            images.append(image)
        tagged.append(replace(message, content=front + content))
    return tagged, images


def generate_prompt(
    template: PromptTemplate,
    *,
    prompt: str,
    suffix: str = "",
    messages: Sequence[Message] = (),
    context_text: str = "",
    thinking: Thinking = Thinking(),
) -> Prompt:
    """Build a prompt of /api/generate without checking its length.

    suffix: fill in the middle; the template sees only prompt and suffix.
    """
    if suffix:
        values = Values(prompt=prompt, suffix=suffix, **thinking.values())
        return Prompt(context_text + template.execute(values))
    tagged, images = _tag_images(list(messages))
    return Prompt(
        context_text + template.execute(Values(messages=[_template_message(m) for m in tagged], **thinking.values())),
        images,
    )


def _template_message(message: Message) -> dict:
    return {
        "role": message.role,
        "content": message.content,
        "thinking": message.thinking,
        "images": message.images,
        "tool_calls": None if message.tool_calls is None else [_plain(call) for call in message.tool_calls],
        "tool_name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }


def _plain(value: Tool | ToolCall | dict) -> dict:
    """Convert a tool or tool call to the decoded JSON object that templates take."""
    return value if isinstance(value, dict) else loads(encode.dumps(value), garbage.made.get())
