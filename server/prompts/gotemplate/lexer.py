"""Splits a template into tokens: the syntax of Go's text/template (https://pkg.go.dev/text/template).

In: the whole text. Out: a list of `Token`s that ends with an "eof" or "error" token; the value of an error token is the
message. Trim markers (`{{- ` and ` -}}`) and comments are handled here; the parser sees neither.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from ...go.text import is_printable
from .formatting import quote

LEFT, RIGHT = "{{", "}}"
SPACES = " \t\r\n"
DIGITS, HEX_DIGITS = "0123456789_", "0123456789abcdefABCDEF_"
KEYWORDS = {"block", "break", "continue", "define", "else", "end", "if", "range", "nil", "template", "with"}


@dataclass(frozen=True)
class Token:
    """kind: eof error text left right space assign declare pipe string raw_string char_constant variable field dot
    number bool identifier left_paren right_paren char keyword. pos counts characters, line counts from 1.
    """

    kind: str
    value: str
    pos: int
    line: int

    def __str__(self):
        """Quote the token as Go's error messages do."""
        if self.kind == "eof":
            return "EOF"
        if self.kind == "error":
            return self.value
        if self.kind == "keyword":
            return f"<{self.value}>"
        return quote(self.value) if len(self.value) <= 10 else quote(self.value[:10]) + "..."


State: TypeAlias = "Callable[[], State | None]"  # a method of the lexer that returns the next one; None ends it


class _LexError(Exception):
    pass


def tokenize(text: str) -> list[Token]:
    """Return all tokens of a template. Never raises: an error is the last token."""
    return _Lexer(text).run()


def is_alphanumeric(char: str) -> bool:
    """Whether a character may stand in an identifier: a letter, a digit or an underscore."""
    return char == "_" or char.isalpha() or char.isdecimal()


class _Lexer:
    def __init__(self, text: str):
        self.text = text
        self.start = 0  # of the current token
        self.pos = 0
        self.start_line = 1
        self.line = 1
        self.paren_depth = 0
        self.tokens: list[Token] = []

    def run(self) -> list[Token]:
        state: State | None = self.in_text
        try:
            while state is not None:
                state = state()
        except _LexError as error:
            self.tokens.append(Token("error", str(error), self.start, self.start_line))
        return self.tokens

    # --- cursor

    def emit(self, kind: str) -> None:
        value = self.text[self.start : self.pos]
        self.tokens.append(Token(kind, value, self.start, self.start_line))
        self.ignore()

    def ignore(self) -> None:
        self.line += self.text.count("\n", self.start, self.pos)
        self.start, self.start_line = self.pos, self.line

    def peek(self) -> str:
        return self.text[self.pos : self.pos + 1]

    def next(self) -> str:
        char = self.peek()
        self.pos += len(char)
        return char

    def accept(self, chars: str) -> bool:
        if self.peek() and self.peek() in chars:
            self.pos += 1
            return True
        return False

    def accept_run(self, chars: str) -> None:
        while self.accept(chars):
            pass

    def fail(self, message: str) -> NoReturn:
        raise _LexError(message)

    def at_right_trim(self, pos: int) -> bool:
        return self.text[pos : pos + 1] in tuple(SPACES) and self.text.startswith("-" + RIGHT, pos + 1)

    def at_right(self) -> bool:
        return self.at_right_trim(self.pos) or self.text.startswith(RIGHT, self.pos)

    # --- states: each returns the next state

    def in_text(self) -> "State | None":
        found = self.text.find(LEFT, self.pos)
        end = len(self.text) if found < 0 else found
        after = end + len(LEFT)
        trimmed = (
            found >= 0 and self.text[after : after + 1] == "-" and self.text[after + 1 : after + 2] in tuple(SPACES)
        )
        kept = self.text[self.pos : end]
        if trimmed:
            kept = kept.rstrip(SPACES)
        self.pos += len(kept)
        if kept:
            self.emit("text")
        self.pos = end
        self.ignore()
        if found < 0:
            self.emit("eof")
            return None
        self.pos = after
        comment = after + (2 if trimmed else 0)
        if self.text.startswith("/*", comment):
            self.pos = comment
            self.ignore()
            return self.in_comment
        self.emit("left")
        self.pos = comment
        self.ignore()
        self.paren_depth = 0
        return self.in_action

    def in_comment(self) -> "State":
        end = self.text.find("*/", self.pos)
        if end < 0:
            self.fail("unclosed comment")
        self.pos = end + 2
        if not self.at_right():
            self.fail("comment ends before closing delimiter")
        return self.after_action()

    def after_action(self) -> "State":
        """Skip a right delimiter and the white space it trims."""
        if self.at_right_trim(self.pos):
            self.pos += 2 + len(RIGHT)
            self.accept_run(SPACES)
        else:
            self.pos += len(RIGHT)
        self.ignore()
        return self.in_text

    def right_delimiter(self) -> "State":
        trimmed = self.at_right_trim(self.pos)
        if trimmed:
            self.pos += 2
            self.ignore()
        self.pos += len(RIGHT)
        self.emit("right")
        if trimmed:
            self.accept_run(SPACES)
            self.ignore()
        return self.in_text

    def in_action(self) -> "State":
        if self.at_right():
            if self.paren_depth == 0:
                return self.right_delimiter()
            self.fail("unclosed left paren")
        char = self.next()
        if char == "":
            self.fail("unclosed action")
        if char in SPACES:
            return self.spaces()
        if char in "+-" or char.isdecimal() and char.isascii():
            return self.number()
        if char == ".":
            following = self.peek()
            if following and following not in "0123456789":
                return self.field_or_variable("field")
            return self.number()
        if char in _SINGLE:
            self.emit(_SINGLE[char])
        elif char == ":":
            if self.next() != "=":
                self.fail("expected :=")
            self.emit("declare")
        elif char in "\"'":
            self.quoted(char)
        elif char == "`":
            end = self.text.find("`", self.pos)
            if end < 0:
                self.fail("unterminated raw quoted string")
            self.pos = end + 1
            self.emit("raw_string")
        elif char == "$":
            return self.field_or_variable("variable")
        elif is_alphanumeric(char):
            return self.identifier()
        elif char in "()":
            self.paren_depth += 1 if char == "(" else -1
            if self.paren_depth < 0:
                self.fail("unexpected right paren")
            self.emit("left_paren" if char == "(" else "right_paren")
        elif char.isascii() and char.isprintable():
            self.emit("char")
        else:
            self.fail(f"unrecognized character in action: {describe(char)}")
        return self.in_action

    def spaces(self) -> "State":
        self.pos -= 1
        while self.peek() and self.peek() in SPACES and not self.at_right_trim(self.pos):
            self.pos += 1
        if self.pos > self.start:
            self.emit("space")
        return self.in_action

    def quoted(self, mark: str) -> None:
        name = "quoted string" if mark == '"' else "character constant"
        while (char := self.next()) != mark:
            if char == "\\":
                char = self.next()
                if char not in ("", "\n"):
                    continue
            if char in ("", "\n"):
                self.fail(f"unterminated {name}")
        self.emit("string" if mark == '"' else "char_constant")

    def at_terminator(self) -> bool:
        char = self.peek()
        return char == "" or char in SPACES or char in ".,|:()" or self.text.startswith(RIGHT, self.pos)

    def field_or_variable(self, kind: str) -> "State":
        if self.at_terminator():
            self.emit("variable" if kind == "variable" else "dot")
            return self.in_action
        while self.peek() and is_alphanumeric(self.peek()):
            self.pos += 1
        if not self.at_terminator():
            self.fail(f"bad character {describe(self.peek())}")
        self.emit(kind)
        return self.in_action

    def identifier(self) -> "State":
        while self.peek() and is_alphanumeric(self.peek()):
            self.pos += 1
        if not self.at_terminator():
            self.fail(f"bad character {describe(self.peek())}")
        word = self.text[self.start : self.pos]
        self.emit("keyword" if word in KEYWORDS else "bool" if word in ("true", "false") else "identifier")
        return self.in_action

    def number(self) -> "State":
        self.pos = self.start
        good = self.scan_number()
        if good and self.peek() and self.peek() in "+-":  # the second half of a complex number
            good = self.scan_number() and self.text[self.pos - 1] == "i"
        if not good:
            self.fail(f"bad number syntax: {quote(self.text[self.start : self.pos])}")
        self.emit("number")
        return self.in_action

    def scan_number(self) -> bool:
        self.accept("+-")
        digits = DIGITS
        if self.accept("0"):
            if self.accept("xX"):
                digits = HEX_DIGITS
            elif self.accept("oO"):
                digits = "01234567_"
            elif self.accept("bB"):
                digits = "01_"
        self.accept_run(digits)
        if self.accept("."):
            self.accept_run(digits)
        if (digits == DIGITS and self.accept("eE")) or (digits == HEX_DIGITS and self.accept("pP")):
            self.accept("+-")
            self.accept_run(DIGITS)
        self.accept("i")
        if self.peek() and is_alphanumeric(self.peek()):
            self.pos += 1
            return False
        return True


_SINGLE = {"=": "assign", "|": "pipe"}


def describe(char: str) -> str:
    """Write a character as Go's %#U: U+005B '['."""
    code = ord(char) if char else 0xFFFFFFFF  # Go's lexer reports the end of the text as rune -1
    return f"U+{code:04X}" + (f" '{char}'" if char and is_printable(char) else "")
