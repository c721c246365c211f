"""Where the recorded data lies that tests compare with; it is not part of the repository, so a clone alone skips
those tests by name.
"""

from pathlib import Path

from places import ROOT
from vulkan_drivers import missing

SHARED = ROOT.parent / "shared"


def shared(part: str) -> Path:
    """The path of one part of the recorded data ("vectors", "data/vocab"). Where it is not there, skips the test by
    name; with CI=1 fails it.
    """
    path = SHARED / part
    if not path.exists():
        missing(f"recorded data 'shared/{part}' is not beside the repository")
    return path
