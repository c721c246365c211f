"""Entry point of the `vkbackend` command and of `python -m vkbackend`.

The one place where `vkbackend` imports `server`, and only when it runs as a command: the commands live in `server/cli`.
"""

import sys


def main() -> None:
    """Run the command line; ends the process with its exit status."""
    from vkbackend.server.cli import process

    process.use_utf8_mode()
    process.open_streams()
    sys.exit(process.guarded(_run))


def _run() -> None:
    from vkbackend.server.cli.main import cli

    cli.main(prog_name="vkbackend", standalone_mode=True)


if __name__ == "__main__":
    main()
