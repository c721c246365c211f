"""Reads and writes Modelfiles: `FROM`, `TEMPLATE`, `SYSTEM`, `PARAMETER name value`, `MESSAGE role text`, ...

In: text or bytes. Out: a list of `Command`s, and back. A command's name is lower case, `model` for FROM and the
parameter's own name for PARAMETER; a message's argument is `role: text`. Values in double or triple double quotes may
span lines.
"""

from dataclasses import dataclass

from ..go.text import decode_utf8, is_text

_COMMANDS = ("from", "license", "template", "system", "adapter", "renderer", "parser", "parameter", "message")
_ROLES = ("system", "user", "assistant")
_QUOTED_COMMANDS = ("license", "template", "system", "adapter", "renderer", "parser")
_SPACES = " \t"
_NEWLINES = "\r\n"


class ModelfileError(ValueError):
    """A Modelfile that cannot be read; `line` is 0 if the error concerns the whole file."""

    def __init__(self, message: str, line: int = 0):
        super().__init__(f"(line {line}): {message}" if line else message)
        self.line = line


@dataclass(frozen=True)
class Command:
    """One command, as described above."""

    name: str
    args: str

    def __str__(self) -> str:
        if self.name == "model":
            return f"FROM {self.args}"
        if self.name in _QUOTED_COMMANDS:
            return f"{self.name.upper()} {_quoted(self.args)}"
        if self.name == "message":
            role, _, text = self.args.partition(": ")
            return f"MESSAGE {role} {_quoted(text)}"
        return f"PARAMETER {self.name} {_quoted(self.args)}"


def _quoted(text: str) -> str:
    """Quote `text` if it has line breaks or outer spaces; with triple quotes if it contains quotes."""
    if "\n" in text or text[:1] == " " or text[-1:] == " ":
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text


def write(commands: list[Command]) -> str:
    """Text of a Modelfile."""
    return "".join(f"{command}\n" for command in commands)


def _decode(content: bytes | str) -> str:
    """Text of a file in UTF-8 or the encoding of its byte order mark; each invalid byte becomes a U+FFFD."""
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    return decode_utf8(content.removeprefix(b"\xef\xbb\xbf"))


def parse(content: bytes | str) -> list[Command]:
    """Commands of a Modelfile. Raises ModelfileError."""
    commands = _Parser().parse(_decode(content))
    if not any(command.name == "model" for command in commands):
        raise ModelfileError("no FROM line")
    return commands


def _unquote(text: str) -> str | None:
    """The value without its quotes; None if a quote is still open."""
    for mark in ('"""', '"'):
        if text.startswith(mark):
            return text[len(mark) : -len(mark)] if len(text) >= 2 * len(mark) and text.endswith(mark) else None
    return text


def _is_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()


class _Parser:
    """A state machine over characters, with a method per state.

    States: between (commands), comment, command (its name), parameter (its name), message (its role), value.
    """

    def __init__(self) -> None:
        self.state = "between"
        self.line = 1
        self.buffer = ""
        self.name = ""
        self.role = ""
        self.commands: list[Command] = []

    def parse(self, text: str) -> list[Command]:
        for character in text:
            if character in _NEWLINES:
                self.line += 1
            getattr(self, self.state)(character)
        if self.state == "value":
            if not self.end_value():
                raise ModelfileError("unexpected EOF")
        elif self.state not in ("between", "comment"):
            raise ModelfileError("unexpected EOF")
        return self.commands

    def enter(self, state: str, character: str = "") -> None:
        self.state = state
        self.buffer = ""
        self.keep(character)

    def keep(self, character: str) -> None:
        if character and is_text(character):  # drops control and format characters, and spaces other than " "
            self.buffer += character

    def between(self, character: str) -> None:
        if character == "#":
            self.enter("comment")
        elif character not in _SPACES + _NEWLINES:
            self.enter("command", character)

    def comment(self, character: str) -> None:
        if character in _NEWLINES:
            self.enter("between")

    def command(self, character: str) -> None:
        if _is_letter(character):
            return self.keep(character)
        name = self.buffer.lower()
        if character not in _SPACES or name not in _COMMANDS:
            listed = ", ".join(f'"{name}"' for name in _COMMANDS[:-1])
            raise ModelfileError(f'command must be one of {listed}, or "{_COMMANDS[-1]}"', self.line)
        self.name = "model" if name == "from" else name
        self.enter(name if name in ("parameter", "message") else "value")

    def parameter(self, character: str) -> None:
        if _is_letter(character) or character.isascii() and character.isdigit() or character == "_":
            self.keep(character)
        elif character in _SPACES:
            self.name = self.buffer
            self.enter("value")
        else:
            raise ModelfileError(f"unexpected EOF: {self.buffer}")

    def message(self, character: str) -> None:
        if _is_letter(character):
            self.keep(character)
        elif character in _SPACES:
            if self.buffer not in _ROLES:
                raise ModelfileError('message role must be one of "system", "user", or "assistant"', self.line)
            self.role = self.buffer
            self.enter("value")
        else:
            raise ModelfileError(f"unexpected EOF: {self.buffer}")

    def value(self, character: str) -> None:
        if character in _NEWLINES and self.end_value():
            self.enter("between")
        elif character in _SPACES + _NEWLINES:
            self.buffer += character  # a tab, or a line break within quotes
        else:
            self.keep(character)

    def end_value(self) -> bool:
        """Add the command if the quotes of its value are closed; returns whether they are."""
        text = _unquote(self.buffer.strip())
        if text is None:
            return False
        self.commands.append(Command(self.name, f"{self.role}: {text}" if self.role else text))
        self.role = ""
        return True
