"""The servers that `bench --compare` measures, by the client's clock: seconds to the first token and to later ones.

In: a URL. Out: a `Peer` (with Ollama's API, or OpenAI's completions as in llama.cpp's server), whose `run` sends one
prompt. `OwnEngine` has the same interface for an engine in this process.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from ..engine.engine import Engine
from ..engine.request import Finished, GenerationRequest, Piece, SamplingOptions
from ..errors import VkbackendError
from ..tokenizer import Tokenizer

SECONDS = 900  # time limit of an answer
PROBE_SECONDS = 10


@dataclass(frozen=True)
class Sample:
    """The timing of one answer.

    prompt_tokens: as counted by the server
    step_seconds: mean over the tokens after the first; 0 if there were no others
    """

    prompt_tokens: int
    tokens: int
    first_seconds: float
    step_seconds: float


def sample(begin: float, times: list[float], prompt_tokens: int) -> Sample:
    """A Sample from the times of the request and of each token, by time.perf_counter."""
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return Sample(prompt_tokens, len(times), times[0] - begin, step)


class Peer:
    """A server.

    kind: "ollama" or "openai"
    model: the model's name there; the caller sets it for "ollama"
    Raises VkbackendError if no server with a known API answers.
    """

    def __init__(self, url: str, name: str = ""):
        self.url = url.rstrip("/")
        self.name = name or self.url.split("//")[-1]
        self.kind = self._detect()
        self.model = self._models()[0] if self.kind == "openai" else ""

    def _detect(self) -> str:
        # llama.cpp's server has some of Ollama's routes, too, so OpenAI's is tried before the second of them.
        for path, kind in (("/api/version", "ollama"), ("/v1/models", "openai"), ("/api/tags", "ollama")):
            try:
                self._get(path)
                return kind
            except (OSError, ValueError, http.client.HTTPException):
                continue
        raise VkbackendError(
            f"{self.url} answers neither as Ollama (/api/version, /api/tags) nor as OpenAI (/v1/models); is a server "
            f"running there?"
        )

    def _models(self) -> list[str]:
        names = [each["id"] for each in self._get("/v1/models").get("data", [])]
        if not names:
            raise VkbackendError(f"{self.url} has no model (/v1/models is empty)")
        return names

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=PROBE_SECONDS) as answer:
            found = json.load(answer)
        if not isinstance(found, dict):
            raise ValueError(f"{path} is not an object")
        return found

    def run(self, prompt: str, tokens: int) -> Sample:
        """Send one prompt and time its answer. An answer without text counts as one token, the end token.

        Raises VkbackendError, with the server's own message if it rejects the request.
        """
        request = self._request(prompt, tokens)
        begin = time.perf_counter()
        times: list[float] = []
        prompt_tokens = 0
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as lines:
                for line in lines:
                    found = self._read(line)
                    if found is None:
                        continue
                    is_token, counted = found
                    if is_token:
                        times.append(time.perf_counter())
                    prompt_tokens = counted or prompt_tokens
        except urllib.error.HTTPError as error:
            raise VkbackendError(
                f"{self.url} rejects the request ({error.code}): {error.read(500).decode(errors='replace')}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise VkbackendError(f"{self.url} stopped answering: {error}") from None
        except ValueError as error:
            raise VkbackendError(f"{self.url} does not send lines of JSON: {error}") from None
        return sample(begin, times or [time.perf_counter()], prompt_tokens or len(prompt.split()))

    def _request(self, prompt: str, tokens: int) -> urllib.request.Request:
        if self.kind == "ollama":
            path = "/api/generate"
            body = {
                "model": self.model,
                "prompt": prompt,
                "raw": True,
                "stream": True,
                "options": {"temperature": 0, "num_predict": tokens, "repeat_penalty": 1.0},
            }
        else:
            path = "/v1/completions"
            body = {
                "model": self.model,
                "prompt": prompt,
                "max_tokens": tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                "cache_prompt": False,  # this and the next one are llama.cpp's
                "ignore_eos": True,
            }
        return urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _read(self, line: bytes) -> tuple[bool, int] | None:
        """Returns (whether the line has a token, the number of prompt tokens or 0), None for a line without data."""
        text = line.removeprefix(b"data:").strip()
        if not text or text == b"[DONE]" or text.startswith(b":"):
            return None
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"{text[:50]!r} is not an object")
        if "error" in data:
            raise VkbackendError(f"{self.url}: {data['error']}")
        if self.kind == "ollama":
            return not data.get("done"), data.get("prompt_eval_count", 0)
        choices = data.get("choices") or [{}]
        return bool(choices[0].get("text")), (data.get("usage") or {}).get("prompt_tokens", 0)


class OwnEngine:
    """An engine in this process, measured like a peer, but without HTTP."""

    kind = "engine"
    name = "vkbackend"

    def __init__(self, engine: Engine, tokenizer: Tokenizer):
        self._engine = engine
        self._tokenizer = tokenizer

    def run(self, prompt: str, tokens: int) -> Sample:
        """Generate from one prompt and time the tokens."""
        begin = time.perf_counter()
        times: list[float] = []
        counted = 0
        ids = self._tokenizer.encode(prompt)
        for event in self._engine.generate(
            GenerationRequest(ids, SamplingOptions(temperature=0, repeat_penalty=1.0), num_predict=tokens)
        ):
            if isinstance(event, Piece):
                times.append(time.perf_counter())
            elif isinstance(event, Finished):
                counted = event.prompt_tokens
        return sample(begin, times or [time.perf_counter()], counted)
