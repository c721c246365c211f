"""Entry point of the `vkbackend` command and of `python -m vkbackend`.

This is the only place where `vkbackend` imports `server`, and only when it runs as a command: the commands are in
`server/cli`, which is installed as `vkbackend.server.cli`.
"""

import gc
import sys

CONTAINERS_AT_START = 50_000  # between two collections: imports make many objects and hardly any garbage


def main() -> None:
    """Run the command line, and end the process with its exit status."""
    gc.set_threshold(CONTAINERS_AT_START, 10, 10)
    from vkbackend.server.cli import process  # pyright: ignore[reportMissingImports]: the type checker sees `server`

    process.use_utf8_mode()
    process.open_streams()
    sys.exit(process.guarded(_run))


def _run() -> None:
    from vkbackend.server.cli.main import cli  # pyright: ignore[reportMissingImports]: as above

    cli.main(prog_name="vkbackend", standalone_mode=True)


if __name__ == "__main__":
    main()
