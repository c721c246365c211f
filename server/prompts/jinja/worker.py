"""The process that runs untrusted chat templates: one line of JSON per request and answer.

    python -I worker.py: {"template": text, "variables": {...}} -> {"text": prompt} or {"error": text}; it first
    writes {"ready": true}

A Jinja sandbox hides Python's internals. The process cannot open files, start processes or reach the network. It ends
when a template takes too much time or memory and after 15 minutes without a request; `worker_process.py` starts it
again.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Never

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from jinja2.nodes import Scope
    from jinja2.parser import Parser

CPU_SECONDS = 2
MEMORY_BYTES = 512 << 20
IDLE_SECONDS = 900
MAX_TEMPLATES = 16
MAX_CHARS = 16 << 20  # of a prompt, as in gotemplate/budget.py


def make_environment() -> Environment:
    """Create the environment that Hugging Face's chat templates expect."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block `{% generation %}`, which marks text for training. It has no effect on a prompt."""

        tags = {"generation"}

        def parse(self, parser: Parser) -> Scope:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def refuse(message: str = "") -> Never:
        raise TemplateError(message)

    def tojson(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    extensions = [Generation, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.now().strftime(form))
    return environment


def limit_resources() -> None:
    """Limit memory and forbid new files. Without the module `resource`, only the caller's time limit applies."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # the three standard streams stay open
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def set_timer(seconds: float) -> None:
    """End the process after this much processor time; 0 removes the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)


def answer(environment: Environment, templates: dict[str, Template], question: dict) -> dict:
    """Render one template. Returns {"text": ...} or {"error": ...}."""
    text = question["template"]
    try:
        if text not in templates:
            while len(templates) >= MAX_TEMPLATES:
                templates.pop(next(iter(templates)))
            templates[text] = environment.from_string(text)
        written = templates[text].render(question["variables"])
        return (
            {"text": written} if len(written) <= MAX_CHARS else {"error": f"it writes more than {MAX_CHARS} characters"}
        )
    except MemoryError:
        os._exit(1)
    except Exception as error:  # untrusted code may raise anything; only this request fails
        return {"error": str(error) or type(error).__name__}


def write_line(value: dict) -> None:
    """Write a JSON value and a line end to stdout."""
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Answer requests from stdin."""
    environment = make_environment()
    templates: dict[str, Template] = {}
    # Import everything that jinja2 loads on first use, also for errors, before the limits apply.
    for text in (
        "{% generation %}{% endgeneration %}{% for a in [1] if a %}{{ [a] | tojson }}{% endfor %}{{ "
        "strftime_now('%c') }}",
        "{{ a.b.c }}",
        "{% if %}",
    ):
        answer(environment, {}, {"template": text, "variables": {}})
    limit_resources()
    write_line({"ready": True})
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0] and (line := sys.stdin.buffer.readline()):
        question = json.loads(line)
        set_timer(CPU_SECONDS)
        result = answer(environment, templates, question)
        set_timer(0)
        write_line(result)


if __name__ == "__main__":
    main()
