"""The web pages of this server, every byte of them from here.

A page is a folder next to this file with an `index.html` and the files that it needs, and a row in PAGES. The page is
served at its path, its files one level below. Links in a page have no slash in front, so that they still hold behind a
proxy that serves this server below a path of its own.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}
# No script or style in line and nothing from another origin. Swagger UI's style sheet holds its icons as data: URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Page:
    """path: of the page, and the name of its folder. summary: a line for the OpenAPI document.

    package, dist, files: a Python package that brings further files, the folder in it that holds them, and those of
    them that are served.
    """

    path: str
    summary: str
    package: str = ""
    dist: str = "dist"
    files: tuple[str, ...] = ()

    def read(self, name: str = "index.html") -> tuple[bytes, str] | None:
        """(contents, media type) of one file, or None if the page has no such file. Reads from disk the first time."""
        return _read(self, name)


PAGES = (
    Page(  # Swagger UI over /openapi.json; the package's own code, which is for Flask, is never imported
        "/docs",
        "The OpenAPI document as a page",
        package="flask_swagger_ui",
        files=("index.css", "swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"),
    ),
)


@cache
def _own_files(page: Page) -> dict[str, Path]:
    folder = FOLDER / page.path.removeprefix("/")
    return {path.name: path for path in folder.iterdir() if path.suffix in MEDIA_TYPES}


@cache
def _package_files(page: Page) -> dict[str, Path]:
    spec = find_spec(page.package) if page.package else None
    if spec is None or spec.origin is None:
        return {}
    return {name: Path(spec.origin).parent / page.dist / name for name in page.files}


@cache
def _contents(path: Path) -> bytes:
    return path.read_bytes()


def _read(page: Page, name: str) -> tuple[bytes, str] | None:
    path = _own_files(page).get(name) or _package_files(page).get(name)
    return None if path is None else (_contents(path), MEDIA_TYPES[path.suffix])
