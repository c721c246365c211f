"""/docs: Swagger UI over this server's OpenAPI document, every byte of it from here.

Out: the page, its files by name, and the Content-Security-Policy under which both are sent. The files are those of the
package flask-swagger-ui, of which no code runs.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "flask_swagger_ui"
MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".png": "image/png"}
# Swagger UI's style sheet holds its icons as data: URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Paths without a slash in front hold behind a proxy that serves this server below a path of its own, too.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vkbackend API</title>
<link rel="stylesheet" href="docs/index.css">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png" sizes="32x32">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  tryItOutEnabled: false, presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout"});
"""
SHOWN = ("index.css", "swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")


def file(name: str) -> tuple[bytes, str] | None:
    """(contents, media type) of a file of the page, or None for another name. Reads from disk the first time."""
    if name == "start.js":
        return START.encode(), MEDIA_TYPES[".js"]
    if name not in SHOWN:
        return None
    return _contents(name), MEDIA_TYPES[Path(name).suffix]


@cache
def _contents(name: str) -> bytes:
    # Found without being imported, which would import Flask.
    return (Path(find_spec(PACKAGE).origin).parent / "dist" / name).read_bytes()
