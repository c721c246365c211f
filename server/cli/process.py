"""Sets up the process of a command: open UTF-8 standard streams, and a one-line message for any error.

Used by `vkbackend.__main__`. Imports nothing large, because every command passes through here.
"""

import codecs
import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

ENCODE_ERRORS = "vkbackend-bytes"


def use_utf8_mode() -> None:
    """Restart the interpreter in UTF-8 mode if the locale is not UTF-8. Arguments and paths are UTF-8, as in Ollama."""
    if sys.flags.utf8_mode or sys.getfilesystemencoding().lower().replace("-", "") == "utf8" or not sys.executable:
        return
    try:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    except OSError:  # continue; text that the locale cannot encode raises its own error
        pass


def open_streams() -> None:
    """Open closed standard streams on /dev/null, as Go does, and switch all three to UTF-8.

    Otherwise a file or socket would get their descriptors.
    """
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
    """Error handler: write surrogates that stand for bytes of an argument or path as these bytes, others as U+FFFD."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    written = [bytes([ord(each) - 0xDC00]) if 0xDC80 <= ord(each) <= 0xDCFF else b"\xef\xbf\xbd" for each in characters]
    return b"".join(written), error.end


codecs.register_error(ENCODE_ERRORS, _encoded)


def os_error_text(error: OSError) -> str:
    """Format an error as `PATH: permission denied`."""
    text = error.strerror or str(error) or type(error).__name__
    text = text[:1].lower() + text[1:]
    return f"{os.fsdecode(error.filename)}: {text}" if isinstance(error.filename, (str, bytes)) else text


def guarded(command: Callable[[], None]) -> int | str | None:
    """Run a command and return its exit status.

    An unexpected error becomes a message on stderr and status 1; OLLAMA_DEBUG=1 also shows the traceback.
    """
    status: int | str | None = None
    try:
        status = _status_of(command)
        sys.stdout.flush()
    except BrokenPipeError:
        status = _without_reader()
    except OSError as error:
        if not status:  # a command that failed has told why, and the buffer still holds what it could not write
            status = _failed(f"cannot write to standard output: {os_error_text(error)}")
        _discard(sys.stdout)
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
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
            return _failed(os_error_text(error))
        text = " ".join(str(error).split())[:500]
        return _failed(
            f"unexpected {type(error).__name__}{': ' if text else ''}{text} (set OLLAMA_DEBUG=1 for a traceback)"
        )
    return 0


def _failed(text: str) -> int:
    try:
        from .terminal.cleaning import echo

        echo(f"Error: {text}", err=True)
    except OSError:
        pass  # stderr is gone, too
    return 1


def _without_reader() -> int:
    """Handle the end of the reader of our output (`vkbackend list | head -1`)."""
    _discard(sys.stdout)
    return 1


def _discard(stream: TextIO) -> None:
    """Redirect a stream to /dev/null, so that Python can flush it at exit without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
