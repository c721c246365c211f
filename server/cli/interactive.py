"""The interactive conversation of `run`, with commands that begin with a slash.

In: lines (from prompt_toolkit on a terminal). Out: requests to /api/chat with the whole history, and printed answers.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress

from vkbackend import settings
from vkbackend.errors import VkbackendError

from ..wire.options import format_parameters
from .client import Client, NoServer, ServerError
from .models import describe, model_lines
from .terminal.answer import LOADING, Printing, Waiting, print_answer
from .terminal.cleaning import echo

QUOTES = '"""'
HELP = """Commands:
  /set            change settings (/? set)
  /show           show information about the model (/? show)
  /list           list the models
  /load MODEL     start a new conversation with another model
  /save MODEL     save this conversation and its settings as a model
  /clear          clear the conversation
  /bye            exit (or press Ctrl-D)
  /? shortcuts    show the keyboard shortcuts

A message of several lines begins and ends with \"\"\".
"""
SET_HELP = """Settings:
  /set parameter NAME VALUE   set an option such as temperature, seed or num_ctx
  /set system TEXT            set the system message
  /set history, nohistory     save typed lines for the next session, or not
  /set wordwrap, nowordwrap   wrap lines between words, or let the terminal wrap them
  /set format json, noformat  answer in JSON, or freely
  /set verbose, quiet         show timings after each answer, or not
  /set think, nothink         enable or disable thinking (/set think high for models with levels)
  /set color, nocolor         colour tokens by their probability, or not
  /set logprobs [N]           show each token with its N likeliest alternatives
  /set nologprobs             hide that table
"""
SHOW_HELP = """Information about the model:
  /show info | license | modelfile | parameters | system | template
"""
PARAMETER_HELP = """Options, as in a Modelfile:
  /set parameter temperature | seed | num_predict | num_ctx | num_gpu VALUE
  /set parameter top_k | top_p | min_p | repeat_penalty | repeat_last_n VALUE
  /set parameter stop TEXT [TEXT ...]
"""
SHORTCUTS = """Keys:
  Ctrl-A, Ctrl-E   go to the beginning, the end of the line
  Alt-B, Alt-F     go back, forward one word
  Ctrl-K, Ctrl-U   cut the text after, before the cursor
  Ctrl-W           cut the word before the cursor
  Ctrl-R           search the history
  Ctrl-L           clear the screen
  Ctrl-C           stop the answer
  Ctrl-D           exit
"""
DEFAULT_ALTERNATIVES = 5


class Conversation:
    """A conversation with one model, its history and settings.

    keeps_lines: whether typed lines are saved for the next session.
    """

    def __init__(self, client: Client, model: str, info: dict, common: dict, printing: Printing):
        self.client = client
        self.common = dict(common)
        self.printing = printing
        self.keeps_lines = True
        self._use(model, info)

    def _use(self, model: str, info: dict) -> None:
        self.model = model
        self.info = info
        self.options: dict = {}
        self.system = ""
        self.messages: list[dict] = []

    def handle(self, text: str) -> bool:
        """Handle a message or a command. Returns False to end the conversation."""
        command, _, rest = text.strip().partition(" ")
        if not command:
            return True
        if not command.startswith("/"):
            self.say(text)
            return True
        if command in ("/bye", "/exit"):
            return False
        action = {
            "/?": self.help,
            "/help": self.help,
            "/clear": self.clear,
            "/set": self.set,
            "/show": self.show,
            "/list": self.list,
            "/load": self.load,
            "/save": self.save,
        }.get(command)
        if action is None:
            echo(f"Unknown command '{command}'. Type /? for help")
        else:
            action(rest.strip())
        return True

    def say(self, text: str) -> None:
        """Send a message and add it and its answer to the history, unless the request fails or Ctrl-C stops it."""
        message = {"role": "user", "content": text}
        before = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": self.model,
            "messages": [*before, *self.messages, message],
            "options": self.options,
        } | self.common
        try:
            answer = print_answer(self.client, "/api/chat", body, self.printing)
        except KeyboardInterrupt:
            return
        except (ServerError, NoServer) as error:
            echo(f"Error: {error}", err=True)
            return
        self.messages += [message, {"role": "assistant", "content": answer.text}]

    def help(self, topic: str) -> None:
        """Print help about a topic, or about all commands."""
        echo(
            {"set": SET_HELP, "show": SHOW_HELP, "shortcuts": SHORTCUTS, "shortcut": SHORTCUTS}.get(
                topic.removeprefix("/"), HELP
            )
        )

    def list(self, prefix: str) -> None:
        """Print the table of models."""
        models = self.client.call("GET", "/api/tags").get("models") or []
        echo("\n".join(model_lines(models, prefix)))

    def clear(self, _: str) -> None:
        """Forget the messages."""
        self.messages = []
        echo("Cleared session context")

    def set(self, text: str) -> None:
        """Change a setting."""
        name, _, value = text.partition(" ")
        value = value.strip()
        switches = {"history": ("keeps_lines", True), "nohistory": ("keeps_lines", False)}
        printing = {
            "verbose": ("verbose", True),
            "quiet": ("verbose", False),
            "color": ("coloured", True),
            "nocolor": ("coloured", False),
            "wordwrap": ("wraps", True),
            "nowordwrap": ("wraps", False),
        }
        if not name:
            echo(SET_HELP)
        elif name == "parameter":
            self.set_parameter(value)
        elif name == "system":
            self.system = value.removeprefix(QUOTES).removesuffix(QUOTES)
            echo("Set system message.")
        elif name in switches:
            setattr(self, *switches[name])
        elif name in ("logprobs", "nologprobs") and (value.isdecimal() or not value):
            self.printing.alternatives = 0 if name == "nologprobs" else min(int(value or DEFAULT_ALTERNATIVES), 20)
            echo(f"Set '{name}' mode.")
        elif name in printing:
            setattr(self.printing, *printing[name])
            echo(f"Set '{name}' mode.")
        elif name == "format" and value == "json" or name == "noformat":
            self.common.pop("format", None)
            if name == "format":
                self.common["format"] = value
            echo("Set format to 'json' mode." if name == "format" else "Disabled format.")
        elif name in ("think", "nothink"):
            self.common["think"] = (value or True) if name == "think" else False
            echo(f"Set 'think' mode to '{value}'." if value and name == "think" else f"Set '{name}' mode.")
        else:
            echo(f"Unknown command '/set {text}'. Type /? for help")

    def set_parameter(self, text: str) -> None:
        """Set an option of the requests."""
        name, *values = text.split() or [""]
        if not values:
            echo(PARAMETER_HELP)
            return
        try:
            self.options.update(format_parameters({name: values}))
        except ValueError as error:
            echo(f"Couldn't set parameter: {error}")
            return
        echo(f"Set parameter '{name}' to '{', '.join(values)}'")

    def show(self, part: str) -> None:
        """Print information about the model."""
        if part == "info":
            echo("\n".join(describe(self.info)))
        elif part == "parameters":
            echo(
                "Model defined parameters:\n"
                + (self.info.get("parameters") or "No parameters were specified for this model.")
            )
            if self.options:
                echo(
                    "\nUser defined parameters:\n"
                    + "\n".join(f"{name:<30} {json.dumps(value)}" for name, value in self.options.items())
                )
        elif part == "system":
            echo(self.system or self.info.get("system") or "No system message was specified for this model.")
        elif part in ("license", "modelfile", "template"):
            echo(self.info.get(part) or f"No {part} was specified for this model.")
        else:
            echo(f"Unknown command '/show {part}'. Type /? for help" if part else SHOW_HELP)

    def load(self, model: str) -> None:
        """Start a new conversation with another model."""
        if not model:
            echo("Usage: /load <model>")
            return
        echo(f"Loading model '{model}'")
        try:
            self._use(model, self.client.call("POST", "/api/show", {"model": model}))
            preload(self.client, model, self.common)
        except ServerError as error:
            echo(f"Couldn't find model '{model}'" if error.status == 404 else f"Error: {error}")
        except NoServer as error:
            echo(f"Error: {error}")

    def save(self, name: str) -> None:
        """Create a model from this conversation and its settings."""
        if not name:
            echo("Usage: /save <model>")
            return
        body = {
            "model": name,
            "from": self.model,
            "parameters": self.options,
            "messages": self.messages,
            "stream": False,
        }
        try:
            self.client.call("POST", "/api/create", body | ({"system": self.system} if self.system else {}))
        except (ServerError, NoServer) as error:
            echo(f"Error: {error}")
            return
        echo(f"Created new model '{name}'")


def preload(client: Client, model: str, common: dict) -> None:
    """Load the model before the first message."""
    waiting = Waiting(model)
    body = {"model": model} | {key: common[key] for key in ("keep_alive",) if key in common}
    try:
        if not waiting.is_shown:
            client.call("POST", "/api/generate", body | {"stream": False})
            return
        for piece in client.stream("/api/generate", body | {"load_progress": True}):
            if piece.get("status") == LOADING:
                waiting.loading(piece)
    finally:
        waiting.end()


def converse(client: Client, model: str, info: dict, common: dict, printing: Printing) -> None:
    """Read from the terminal until /bye or Ctrl-D."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import HTML
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    conversation = Conversation(client, model, info, common, printing)

    class Lines(FileHistory):
        """A history file that /set nohistory stops. A file that cannot be read or written is ignored."""

        def load_history_strings(self) -> Iterable[str]:
            try:
                return super().load_history_strings()
            except OSError:
                return []

        def store_string(self, string: str) -> None:
            if conversation.keeps_lines:
                with suppress(OSError):
                    super().store_string(string)

    try:
        history = (
            InMemoryHistory() if settings.get("OLLAMA_NOHISTORY") else Lines(str(settings.cache_folder() / "history"))
        )
    except (OSError, VkbackendError):
        history = InMemoryHistory()
    session = PromptSession(history=history)
    placeholder = HTML("<ansibrightblack>Send a message (/? for help)</ansibrightblack>")
    preload(client, model, common)
    while True:
        try:
            text = read_message(
                lambda is_first: session.prompt(
                    ">>> " if is_first else "... ", placeholder=placeholder if is_first else None
                )
            )
        except KeyboardInterrupt:
            echo("\nUse Ctrl + d or /bye to exit.")
            continue
        except EOFError:
            return
        if not conversation.handle(text):
            return


def read_message(read_line: Callable[[bool], str]) -> str:
    """Read one message: a line, or the lines between triple quotes.

    `read_line(is_first)` returns a line; its exceptions propagate.
    """
    text = read_line(True)
    opened = text.strip()
    for start in (QUOTES, f"/set system {QUOTES}"):
        if opened.startswith(start):
            body = opened[len(start) :]
            while not body.rstrip().endswith(QUOTES):
                body += "\n" + read_line(False)
            return start.removesuffix(QUOTES) + body.rstrip().removesuffix(QUOTES)
    return text
