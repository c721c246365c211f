"""Which version of vkbackend this is."""

from importlib import metadata
from pathlib import Path


def version() -> str:
    """Of the installed distribution, or of the source checkout."""
    try:
        return metadata.version("vkbackend")
    except metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
        lines = project.read_text().splitlines() if project.exists() else []
        return next((line.split('"')[1] for line in lines if line.startswith("version = ")), "unknown")
