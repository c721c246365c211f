"""Requests to /v1 of a server in this process."""

import json

TEMPLATE = "[{{ .Prompt }}]"


async def ask(client, path, **body):
    answer = await client.post(path, json={"model": "m", **body})
    return answer.status, await answer.json()


def complete(client, **body):
    return ask(client, "/v1/completions", **body)


async def events(client, path, **body):
    """The chunks of a stream, and whether it came to its end."""
    answer = await client.post(path, json={"model": "m", "stream": True, **body})
    assert answer.headers["Content-Type"] == "text/event-stream", await answer.text()
    lines = (await answer.text()).split("\n\n")
    assert lines.pop() == "" and all(line.startswith("data: ") for line in lines)
    is_whole = lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[: -1 if is_whole else None]], is_whole
