"""Versions: vkbackend's own, and that of the Ollama API."""

from importlib import metadata
from pathlib import Path

OLLAMA_VERSION = "0.12.11"  # of the API that is served; registries refuse models to clients that are too old for them


def version() -> str:
    """The version of the installed distribution, or of the source checkout."""
    try:
        return metadata.version("vkbackend")
    except metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
        lines = project.read_text().splitlines() if project.exists() else []
        return next((line.split('"')[1] for line in lines if line.startswith("version = ")), "unknown")
