"""Runs a foreign jinja chat template on a few conversations, in a process of its own: it is code from a file that somebody sent.

    python probe.py < {"template": text, "end_tokens": [...], "conversations": [...]}

Out: JSON, for each end token the list of prompts, null for a conversation that the template refuses. The sandbox keeps the text from
Python's insides; limits on time and memory keep an endless or huge one from the server. `run` is the caller's side.
"""

import json
import subprocess
import sys

CPU_SECONDS, MEMORY_BYTES, WALL_SECONDS = 2, 512 << 20, 10


def run(template: str, end_tokens: list[str], conversations: list[list[dict]]) -> list[list[str | None]] | None:
    """None where the text is no template, or does not end in time."""
    question = json.dumps({"template": template, "end_tokens": end_tokens, "conversations": conversations})
    try:
        # As a script, not as a module of this package: that would load far more than it needs.
        done = subprocess.run([sys.executable, __file__], input=question, capture_output=True, text=True, timeout=WALL_SECONDS)
        return json.loads(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError, OSError):
        return None


def limit_resources():
    """Where the system can; elsewhere WALL_SECONDS must do."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def main():
    sys.path.pop(0)  # this folder: its modules must not stand in for others
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message=""):
        raise TemplateError(message)

    limit_resources()
    question = json.load(sys.stdin)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(question["template"])

    def render(messages, end_token):
        try:
            return template.render(messages=messages, add_generation_prompt=True, bos_token="", eos_token=end_token)
        except Exception:  # whatever foreign code raises, it takes this conversation only
            return None

    json.dump([[render(messages, token) for messages in question["conversations"]] for token in question["end_tokens"]], sys.stdout)


if __name__ == "__main__":
    main()
