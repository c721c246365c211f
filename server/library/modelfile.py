"""The Modelfile language: `FROM`, `TEMPLATE`, `SYSTEM`, `PARAMETER name value`, `MESSAGE role text`, `LICENSE`,
`ADAPTER`.

In: text or bytes. Out: a list of `Command`s and back. A command's name is lower case, `model` for FROM and the
parameter's own name for PARAMETER; a message's argument is `role: text`. Values may stand in double or triple double
quotes over several lines.
"""

from dataclasses import dataclass

from ..go.text import decode_utf8, is_text

_COMMANDS = ("from", "license", "template", "system", "adapter", "renderer", "parser", "parameter", "message")
_ROLES = ("system", "user", "assistant")
_QUOTED_COMMANDS = ("license", "template", "system", "adapter", "renderer", "parser")
_SPACES, _NEWLINES = " \t", "\r\n"


class ModelfileError(ValueError):
    """`line` is where it went wrong, 0 where the file as a whole is meant."""

    def __init__(self, message: str, line: int = 0):
        super().__init__(f"(line {line}): {message}" if line else message)
        self.line = line


@dataclass(frozen=True)
class Command:
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
    """In quotes where a line break or an outer space would be lost; triple where quotes are inside."""
    if "\n" in text or text[:1] == " " or text[-1:] == " ":
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text


def write(commands: list[Command]) -> str:
    return "".join(f"{command}\n" for command in commands)


def _decode(content: bytes | str) -> str:
    """Text of a file: UTF-8, or what its byte order mark says; each byte that is no UTF-8 becomes a replacement
    character.
    """
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    return decode_utf8(content.removeprefix(b"\xef\xbb\xbf"))


def parse(content: bytes | str) -> list[Command]:
    """Raises ModelfileError."""
    commands = _Parser().parse(_decode(content))
    if not any(command.name == "model" for command in commands):
        raise ModelfileError("no FROM line")
    return commands


def _unquote(text: str) -> str | None:
    """The value without its quotes; None while a quote is still open."""
    for mark in ('"""', '"'):
        if text.startswith(mark):
            return text[len(mark) : -len(mark)] if len(text) >= 2 * len(mark) and text.endswith(mark) else None
    return text


def _is_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()


class _Parser:
    """A machine over characters. State is one of: between (commands), comment, command (its name), parameter (its
    name), message (its role), value.
    """

    def __init__(self):
        self.state, self.line, self.buffer, self.name, self.role, self.commands = "between", 1, "", "", "", []

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

    def enter(self, state, character=""):
        self.state, self.buffer = state, ""
        self.keep(character)

    def keep(self, character):
        if is_text(character):  # control and format characters, and spaces other than the plain one, are dropped
            self.buffer += character

    def between(self, character):
        if character == "#":
            self.enter("comment")
        elif character not in _SPACES + _NEWLINES:
            self.enter("command", character)

    def comment(self, character):
        if character in _NEWLINES:
            self.enter("between")

    def command(self, character):
        if _is_letter(character):
            return self.keep(character)
        if character not in _SPACES:
            self.bad_command()
        name = self.buffer.lower()
        if name not in _COMMANDS:
            self.bad_command()
        self.name = "model" if name == "from" else name
        self.enter({"parameter": "parameter", "message": "message"}.get(name, "value"))

    def bad_command(self):
        listed = ", ".join(f'"{name}"' for name in _COMMANDS[:-1])
        raise ModelfileError(f'command must be one of {listed}, or "{_COMMANDS[-1]}"', self.line)

    def parameter(self, character):
        if _is_letter(character) or character.isascii() and character.isdigit() or character == "_":
            self.keep(character)
        elif character in _SPACES:
            self.name = self.buffer
            self.enter("value")
        else:
            raise ModelfileError(f"unexpected EOF: {self.buffer}")

    def message(self, character):
        if _is_letter(character):
            self.keep(character)
        elif character in _SPACES:
            if self.buffer not in _ROLES:
                raise ModelfileError('message role must be one of "system", "user", or "assistant"', self.line)
            self.role = self.buffer
            self.enter("value")
        else:
            raise ModelfileError(f"unexpected EOF: {self.buffer}")

    def value(self, character):
        if character in _NEWLINES and self.end_value():
            self.enter("between")
        elif character in _SPACES + _NEWLINES:
            self.buffer += character  # a tab, or a line break inside quotes
        else:
            self.keep(character)

    def end_value(self) -> bool:
        """Take the value if its quotes are closed."""
        text = _unquote(self.buffer.strip())
        if text is None:
            return False
        self.commands.append(Command(self.name, f"{self.role}: {text}" if self.role else text))
        self.role = ""
        return True
