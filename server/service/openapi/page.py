"""Shows an OpenAPI document as a page: plain HTML made here, without scripts and without anything from other hosts.

In: the document. Out: HTML, and the Content-Security-Policy that it needs, which allows its style sheet and nothing else.
"""

import base64
import hashlib
import json
from html import escape

from .schemas import REFERENCE

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; background: #fff; }
h2 { margin: 2.5rem 0 .5rem; } summary { cursor: pointer; padding: .4rem 0; }
details.operation { border-bottom: 1px solid #d9dee7; } details.operation > div { padding: 0 0 1rem 1rem; }
.method { display: inline-block; width: 4.5rem; font-weight: 700; color: #0b5cad; } code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { background: #f3f5f9; padding: .7rem; overflow-x: auto; border-radius: 4px; } table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-top: 1px solid #e7eaf0; } .note { color: #596275; }
@media (prefers-color-scheme: dark) { body { background: #14181f; color: #dde3ec; } pre { background: #1e242e; } .method { color: #7db7f5; }
  details.operation, td, th { border-color: #323a47; } .note { color: #97a2b4; } a { color: #7db7f5; } }
"""
STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{STYLE_DIGEST}'; base-uri 'none'; frame-ancestors 'none'"
EXAMPLES = {"model": "smollm2", "prompt": "The sky is", "messages": [{"role": "user", "content": "Hello"}], "input": "The sky is",
            "source": "smollm2", "destination": "a-copy", "stream": False}


def html(document: dict) -> str:
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(document, method, path, operation))
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(parts)}" for tag, parts in groups.items())
    schemas = "".join(f'<details class="operation" id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
                      f"<div>{_fields(schema)}</div></details>" for name, schema in document["components"]["schemas"].items())
    info = document["info"]
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
            f'<p>{escape(info["description"])}</p>'
            f'<p class="note">For programs: <a href="/openapi.json">/openapi.json</a> (OpenAPI {document["openapi"]})</p>'
            f"{body}<h2>Objects</h2>{schemas}</body></html>")


def _operation(document, method, path, operation) -> str:
    parts = [f'<p><code>{escape(parameter["name"])}</code> in the path: {escape(parameter["description"])}</p>'
             for parameter in operation.get("parameters", ())]
    content = operation.get("requestBody", {}).get("content", {})
    for media, entry in content.items():
        parts.append(f"<p>Request ({escape(media)}): {_type(entry['schema'])}</p>")
        if "$ref" in entry["schema"]:
            parts.append(_example(document, method, path, entry["schema"]["$ref"]))
    for status, response in operation["responses"].items():
        kinds = "; ".join(f"{escape(media)}: {_type(entry['schema'])}" for media, entry in response.get("content", {}).items())
        title = "Error" if status == "default" else f"Status {status}"
        parts.append(f"<p>{title}: {escape(response['description'])}{f' ({kinds})' if kinds else ''}</p>")
    return (f'<details class="operation" id="{operation["operationId"]}"><summary>'
            f'<span class="method">{method.upper()}</span><code>{escape(path)}</code> '
            f'<span class="note">{escape(operation["summary"])}</span></summary><div>{"".join(parts)}</div></details>')


def _example(document, method, path, reference) -> str:
    """A line for a shell, where the request's fields have examples."""
    names = document["components"]["schemas"][reference.removeprefix(REFERENCE)]["properties"]
    body = {name: value for name, value in EXAMPLES.items() if name in names}
    flag = "" if method == "post" else f"-X {method.upper()} "
    return f"<pre>{escape(f'curl {flag}http://127.0.0.1:11434{path} -d {chr(39)}{json.dumps(body)}{chr(39)}')}</pre>"


def _fields(schema) -> str:
    required = schema.get("required", ())
    rows = "".join(f"<tr><td><code>{escape(name)}</code>{'' if name in required else ' <span class=note>?</span>'}</td><td>{_type(field)}</td>"
                   f'<td class="note">{escape(field.get("description", ""))}{" older name" if field.get("deprecated") else ""}</td></tr>'
                   for name, field in schema.get("properties", {}).items())
    note = f'<p class="note">{escape(schema["description"])}</p>' if "description" in schema else ""
    return f"{note}<table>{rows}</table>"


def _type(schema) -> str:
    """A schema in a few words; objects of the document are links."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(REFERENCE))
        return f'<a href="#{name}">{name}</a>'
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(_type(each) for each in schema[key])
    if "const" in schema or "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema.get("enum", [schema.get("const")]))
    kinds = schema.get("type", "any value")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join("list of " + _type(schema.get("items", {})) if kind == "array" else escape(kind) for kind in kinds)
