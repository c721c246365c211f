"""The marks around an answer, through the API."""

import asyncio
import json

from scripted_world import WordTokenizer, World, pieces, tiny_gguf

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}<|START_RESPONSE|>{{ m.content }}"
    "<|END_RESPONSE|>{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def test_a_chat_and_a_completion_have_no_marks_and_a_raw_one_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(WordTokenizer, "bos_id", None, raising=False)
    answer = pieces("<|START_RESPONSE|>yes<|END_RESPONSE|>")
    bodies = [
        ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/api/generate", {"prompt": "Hi"}),
        ("/api/generate", {"prompt": "Hi", "raw": True}),
    ]

    async def run():
        async with World(tmp_path) as world:
            upload = await world.upload(tiny_gguf(tmp_path / "m.gguf", "llama", chat_template=TEMPLATE))
            await (await world.client.post("/api/create", json={"model": "m", "files": {"m.gguf": upload}})).text()
            for path, fields in bodies:
                body = json.dumps({"model": "m", "stream": False} | fields)
                vector = {"method": "POST", "path": path, "runner_pieces": answer, "body": body}
                yield json.loads((await world.ask(vector))[2])

    async def collect():
        return [each async for each in run()]

    chat, completion, raw = asyncio.run(collect())
    assert chat["message"]["content"] == completion["response"] == "yes"
    assert raw["response"] == "<|START_RESPONSE|>yes<|END_RESPONSE|>"
