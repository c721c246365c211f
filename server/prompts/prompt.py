"""Messages and texts of a request -> the prompt: which messages fit the context, where images stand, what the
template writes.

Messages are `server.messages.Message`s; they are never changed. Token counts come from a function of the caller, so
that nothing here knows a model. Follows Ollama 0.12.11's chatPrompt and GenerateHandler as recorded.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vkbackend.tokenizer.long_texts import encode_at_most

from ..go import encode
from ..wire.native import Message
from .gotemplate import Template, Values

ONE_IMAGE_ONLY = "this model only supports one image while more than one image requested"
TOKENS_PER_IMAGE = 768  # what one image counts where the model sees images


class PromptError(Exception):
    """The request's messages cannot become a prompt."""


@dataclass(frozen=True)
class Prompt:
    """images: the bytes of each, `[img-N]` in the text being images[N]."""

    text: str
    images: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Thinking:
    """The request's `think`, as templates see it. asked None: the request does not say."""

    asked: bool | str | None = None

    def values(self) -> dict:
        level = self.asked if isinstance(self.asked, str) else "medium" if self.asked else ""
        return {"think": bool(self.asked), "think_level": level, "is_think_set": self.asked is not None}


@dataclass(frozen=True)
class ContextLimit:
    """num_ctx tokens at most, counted by `count_tokens(text)`. truncate False keeps every message. sees_images: each
    image counts.
    """

    num_ctx: int
    count_tokens: Callable[[str], int]
    truncate: bool = True
    sees_images: bool = False


def count_tokens(tokenizer, text: str, most: int) -> int:
    """How many tokens a text has; of a long one that has more than `most`, only that it has more."""
    return len(encode_at_most(tokenizer, text, most + 1, most + 1, add_special=False))


def chat_prompt(
    template: Template,
    messages: list[Message],
    limit: ContextLimit,
    *,
    tools: list | None = None,
    thinking: Thinking = Thinking(),
    one_image_only: bool = False,
) -> Prompt:
    """The prompt of a conversation. Where it is too long, the oldest messages are left out; system texts and the
    last message stay.

    template: a Template, or a renderer or Jinja template in its place; one that `marks_images` says itself where
    they stand. Raises PromptError, and TemplateError from the template.
    """
    if one_image_only and any(len(message.images or ()) > 1 for message in messages):
        raise PromptError(ONE_IMAGE_ONLY)
    tool_values = None if tools is None else [_plain(tool) for tool in tools]

    def render(kept):
        return template.execute(
            Values(messages=[_template_message(message) for message in kept], tools=tool_values, **thinking.values())
        )

    system, first = _fitting(messages, limit, render)
    kept, images = messages[first:], [image for message in messages[first:] for image in message.images or ()]
    if not getattr(template, "marks_images", False):
        kept, images = _tag_images(kept)
    return Prompt(render(system + kept), images)


def _fitting(messages, limit, render):
    """(system messages of what is left out, index of the first message kept)."""

    def fits(first, system):
        size = limit.count_tokens(render(system + messages[first:]))
        if limit.sees_images:
            size += TOKENS_PER_IMAGE * sum(len(message.images or ()) for message in messages[first:])
        return size <= limit.num_ctx

    def system_before(first):
        return [message for message in messages[:first] if message.role == "system"]

    if not limit.truncate or not messages or fits(0, []):
        return [], 0
    last = len(messages) - 1
    if not fits(last, system_before(last)):
        return system_before(last), last
    # The more messages, the longer the prompt: back in doubling steps, then by halves to the first one that fits.
    first, step = last, 1
    while (too_long := max(first - step, 0)) and fits(too_long, system_before(too_long)):
        first, step = too_long, 2 * step
    while first - too_long > 1:
        middle = (first + too_long) // 2
        if fits(middle, system_before(middle)):
            first = middle
        else:
            too_long = middle
    return system_before(too_long), first


def _tag_images(messages):
    """(messages with `[img-N]` where their images belong, all images). A tag takes the place of `[img]`, else it
    goes to the front.
    """
    tagged, images = [], []
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
    template: Template,
    *,
    prompt: str,
    suffix: str = "",
    messages: list[Message] = (),
    context_text: str = "",
    thinking: Thinking = Thinking(),
) -> Prompt:
    """A prompt without a check of its length: for a suffix (prompt and suffix are all there is) or a template of the
    request.
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


def _plain(value):
    """A tool or a call as the decoded JSON object that templates take."""
    return value if isinstance(value, dict) else json.loads(encode.dumps(value))
