"""The process that runs foreign chat templates, one line of JSON per question and answer.

    python -I worker.py: {"template": text, "variables": {...}} -> {"text": prompt} or {"error": text}; first it
    writes {"ready": true}

The sandbox keeps a template from Python's insides. What takes too long or too much memory ends the process, which
`process.py` starts again; so does a quarter of an hour without a question. It can open no file, start no process and
reach no network.
"""

import json
import os
import select
import signal
import sys
from datetime import datetime

CPU_SECONDS, MEMORY_BYTES, IDLE_SECONDS, MAX_TEMPLATES = 2, 512 << 20, 900, 16
MAX_CHARS = 16 << 20  # of a prompt, as in gotemplate/budget.py: the caller must take it in


def make_environment():
    """What Hugging Face's chat templates find around them."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what a model is trained on; here only what stands inside counts."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def refuse(message=""):
        raise TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    extensions = [Generation, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.now().strftime(form))
    return environment


def limit_resources():
    """Where the system can; elsewhere the caller's patience must do."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # what is open stays so: the three standard streams
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def set_timer(seconds: float):
    """Ends the process after so much processor time; 0 takes the limit off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)


def answer(environment, templates, question):
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
    except Exception as error:  # whatever foreign code raises, it takes this question only
        return {"error": str(error) or type(error).__name__}


def write_line(told: dict):
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n")
    sys.stdout.buffer.flush()


def main():
    environment, templates = make_environment(), {}
    for text in (
        "{% generation %}{% endgeneration %}{% for a in [1] if a %}{{ [a] | tojson }}{% endfor %}{{ "
        "strftime_now('%c') }}",
        "{{ a.b.c }}",
        "{% if %}",
    ):
        answer(
            environment, {}, {"template": text, "variables": {}}
        )  # what is loaded on first use, for errors too, is loaded before the limits
    limit_resources()
    write_line({"ready": True})
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0] and (line := sys.stdin.buffer.readline()):
        question = json.loads(line)
        set_timer(CPU_SECONDS)
        told = answer(environment, templates, question)
        set_timer(0)
        write_line(told)


if __name__ == "__main__":
    main()
