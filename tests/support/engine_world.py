"""An engine over a fake runner, its requests and what comes of them: the world of the engine's tests."""

import threading
import time

from fake_runner import FakeRunner, FakeTokenizer

from vkbackend.engine.engine import Engine
from vkbackend.engine.request import Failed, Finished, GenerationRequest, Piece, SamplingOptions

GREEDY = SamplingOptions(temperature=0, repeat_penalty=1.0)
WAIT = 20  # seconds after which a test gives up


class World:
    """A tokenizer, a runner and an engine over them; closed at the end of the test."""

    def __init__(self, replies=(("ok",),), tokenizer=None, **runner_options):
        self.tokenizer = tokenizer or FakeTokenizer()
        self.runner = FakeRunner(self.tokenizer, replies, **runner_options)
        self.engine = Engine(self.runner, self.tokenizer)

    def request(self, prompt="a prompt of five words", **fields):
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return GenerationRequest(tokens, **{"options": GREEDY, **fields})

    def run(self, *arguments, **fields):
        """(text, Finished) of one request."""
        *pieces, finished = self.engine.generate(self.request(*arguments, **fields))
        assert all(isinstance(piece, Piece) for piece in pieces)
        return "".join(piece.text for piece in pieces), finished

    def start(self, *arguments, **fields):
        listener = Listener()
        listener.handle = self.engine.submit(self.request(*arguments, **fields), listener)
        return listener


class Listener:
    """Collects events; `wait` returns the last one."""

    def __init__(self):
        self.events, self._ended = [], threading.Event()

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, (Finished, Failed)):
            self._ended.set()

    def wait(self):
        assert self._ended.wait(WAIT), "no last event came"
        assert not any(isinstance(event, (Finished, Failed)) for event in self.events[:-1])
        return self.events[-1]

    @property
    def text(self):
        return "".join(event.text for event in self.events if isinstance(event, Piece))


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.001)
