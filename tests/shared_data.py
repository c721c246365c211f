"""Where the recorded data lies that tests compare with; it is not part of the repository."""

from pathlib import Path

import pytest


def shared(part: str) -> Path:
    """The path of one part of the recorded data ("vectors", "data/vocab"); skips the test where it is not there."""
    path = Path(__file__).resolve().parents[2] / "shared" / part
    if not path.exists():
        pytest.skip(f"recorded data 'shared/{part}' is not at hand")
    return path
