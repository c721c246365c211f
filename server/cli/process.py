"""What the process of a command has around it: standard streams that are UTF-8 and open, and an end in a sentence
whatever happens.

Used by `vkbackend.__main__`; imports nothing large, for every command passes through here.
"""

import codecs
import os
import sys
import traceback
from collections.abc import Callable

ENCODE_ERRORS = "vkbackend-bytes"


def use_utf8_mode() -> None:
    """Start the interpreter again in UTF-8 mode where the locale is not UTF-8: arguments, paths and texts are bytes
    of UTF-8, as for Ollama."""
    if sys.flags.utf8_mode or sys.getfilesystemencoding().lower().replace("-", "") == "utf8" or not sys.executable:
        return
    try:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    except OSError:  # as good as it gets: what the locale cannot name is then an error of its own
        pass


def open_streams() -> None:
    """Standard streams that were closed lead to /dev/null, as in Go: a file or socket must not get their numbers. All
    are UTF-8."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
        getattr(sys, name).reconfigure(encoding="utf-8", errors="replace" if mode == "r" else ENCODE_ERRORS)


def _encoded(error: UnicodeError) -> tuple[bytes, int]:
    """What Python kept of bytes that are no UTF-8 (in an argument, a path) is written as these bytes, another lone
    surrogate as U+FFFD."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    written = [bytes([ord(each) - 0xDC00]) if 0xDC80 <= ord(each) <= 0xDCFF else b"\xef\xbf\xbd" for each in characters]
    return b"".join(written), error.end


codecs.register_error(ENCODE_ERRORS, _encoded)


def os_error_text(error: OSError) -> str:
    """`PATH: permission denied`"""
    text = error.strerror or str(error) or type(error).__name__
    text = text[:1].lower() + text[1:]
    return f"{os.fsdecode(error.filename)}: {text}" if isinstance(error.filename, (str, bytes)) else text


def guarded(command: Callable[[], None]) -> int | str | None:
    """Run a command -> the exit status that it asks for. An error that nobody foresaw is a sentence on stderr and
    status 1; OLLAMA_DEBUG=1 shows its traceback."""
    try:
        status = _status_of(command)
        sys.stdout.flush()
    except BrokenPipeError:
        status = _without_readers()
    except OSError as error:
        status = _told(f"standard output cannot be written: {os_error_text(error)}")
        _give_up(sys.stdout)
    try:
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)
    return status


def _status_of(command: Callable[[], None]) -> int | str | None:
    try:
        command()
    except SystemExit as end:
        return end.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except BaseException as error:
        from vkbackend import settings

        if settings.get("OLLAMA_DEBUG") < 0:
            traceback.print_exception(error)
        if isinstance(error, OSError):
            return _told(os_error_text(error))
        told = " ".join(str(error).split())[:500]
        return _told(f"unexpected {type(error).__name__}{': ' if told else ''}{told} (OLLAMA_DEBUG=1 shows where)")
    return 0


def _told(text: str) -> int:
    try:
        from .terminal.cleaning import echo

        echo(f"Error: {text}", err=True)
    except OSError:
        pass  # nobody is left to be told
    return 1


def _without_readers() -> int:
    """The reader of our output has gone (`vkbackend list | head -1`): nothing left to say."""
    _give_up(sys.stdout)
    return 1


def _give_up(stream) -> None:
    """What is still to be written goes to /dev/null: Python would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
