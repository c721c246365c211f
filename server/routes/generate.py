"""POST /api/chat: a conversation, and the assistant's next message. POST /api/generate: a prompt, put into the model's
template or taken as it is, and the text that follows it.
"""

from aiohttp import web

from ..generation.chat import ChatTurn
from ..generation.completion import CompletionTurn
from ..generation.turn import replies
from ..http.line_stream import LineStream
from ..http.responses import read
from ..http.streams import send
from ..wire.native import ChatRequest, GenerateRequest
from .app_state import context_of


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /api/chat."""
    lines = LineStream(request)
    context = context_of(request, lines)
    turn = ChatTurn(await read(request, ChatRequest))
    return await send(request, lines, replies(context, turn), turn.ask.stream is not False, turn.whole)


async def generate(request: web.Request) -> web.StreamResponse:
    """POST /api/generate."""
    lines = LineStream(request)
    context = context_of(request, lines)
    turn = CompletionTurn(await read(request, GenerateRequest))
    return await send(request, lines, replies(context, turn), turn.ask.stream is not False, turn.whole)
