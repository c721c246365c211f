"""Web pages: what they send, and that nothing in them comes from elsewhere."""

import json
import re
import subprocess
import sys

from manage_world import talk
from places import ROOT

from vkbackend.server.library.store import Store


def test_the_page_and_its_files_come_from_here(tmp_path):
    """Nothing in line, which the policy would forbid, and nothing from another host."""

    async def conversation(client):
        async def get(path):
            answer = await client.get(path)
            return answer.status, answer.headers, await answer.read()

        page = await get("/docs")
        links = re.findall(r'(?:src|href)="([^"]*)"', page[2].decode())
        found = {link: await get(f"/{link}") for link in [*links, "openapi.json"]}
        return page, found, await get("/docs/no.js"), await get("/docs/..%2F__init__.py")

    (status, headers, page), files, missing, outside = talk(Store(tmp_path / "store"), conversation)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert len(files) > 4 and all(re.fullmatch(r"docs/[\w.-]+|openapi\.json", link) for link in files)
    assert all(status == 200 and len(contents) > 50 for status, _, contents in files.values())
    kinds = {
        link.rpartition(".")[2]: headers["Content-Type"].partition(";")[0] for link, (_, headers, _) in files.items()
    }
    assert kinds == {"css": "text/css", "png": "image/png", "js": "text/javascript", "json": "application/json"}
    start = files["docs/start.js"][2]
    assert b"SwaggerUIBundle" in files["docs/swagger-ui-bundle.js"][2] and b'url: "openapi.json"' in start
    assert b"validatorUrl: null" in start  # else it asks a server of others
    assert not re.search(rb"<script>|<style|style=| on\w+=|//", page)
    assert (missing[0], outside[0]) == (404, 404) and json.loads(missing[2])["error"]


def test_the_policy_of_the_page_is_strict(tmp_path):
    async def conversation(client):
        return [(await client.get(path)).headers for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css")]

    for headers in talk(Store(tmp_path / "store"), conversation):
        rules = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
        nothing, own = (
            ("default-src", "base-uri", "form-action", "frame-ancestors"),
            ("script-src", "style-src", "connect-src"),
        )
        assert rules == dict.fromkeys(nothing, "'none'") | dict.fromkeys(own, "'self'") | {"img-src": "'self' data:"}
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_needs_no_flask():
    """Its files are looked up, not imported."""
    code = (
        "import sys; from vkbackend.server.web.pages import PAGES; "
        "page = next(page for page in PAGES if page.path == '/docs'); "
        "assert page.read('index.css') and 'flask' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
