"""GET /openapi.json, and /docs, which shows it: a page without scripts, made once."""

import html
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gateway.assets import WEB
from gateway.openapi import document

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Corolla: the OpenAI API</title>
<link rel="stylesheet" href="/docs.css">
</head>
<body>
<main>
<h1>The OpenAI API</h1>
<p>{about} The same as <a href="/openapi.json">OpenAPI document</a>.</p>
{operations}
<h2>Types</h2>
{types}
</main>
</body>
</html>
"""


class Docs:
    """The document and the page of one gateway."""

    def __init__(self) -> None:
        content = document()
        self._document = msgspec.json.encode(content)
        self._page = page(content)
        self._style = (WEB / "docs.css").read_bytes()

    async def openapi(self, _: Request) -> Response:
        """GET /openapi.json"""
        return Response(self._document, media_type="application/json")

    async def docs(self, _: Request) -> Response:
        """GET /docs"""
        return HTMLResponse(self._page)

    async def style(self, _: Request) -> Response:
        """GET /docs.css"""
        return Response(self._style, media_type="text/css")


def page(content: dict[str, Any]) -> str:
    """The document as HTML."""
    operations = [
        _operation(method, path, told) for path, each in content["paths"].items() for method, told in each.items()
    ]
    types = [_type(name, schema) for name, schema in sorted(content["components"]["schemas"].items())]
    about = _marked(content["info"]["description"])
    return _PAGE.format(about=about, operations="\n".join(operations), types="\n".join(types))


def _operation(method: str, path: str, told: dict[str, Any]) -> str:
    lines = [
        f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>",
        f"<p>{_marked(told['summary'])}</p>",
        "<dl>",
    ]
    for parameter in told["parameters"]:
        about = _marked(parameter.get("description", "part of the path"))
        lines.append(f"<dt><code>{html.escape(parameter['name'])}</code></dt><dd>{about}</dd>")
    if "requestBody" in told:
        lines.append(f"<dt>Takes</dt><dd>{_content(told['requestBody']['content'])}</dd>")
    for status, answer in told["responses"].items():
        lines.append(f"<dt>{status}</dt><dd>{_marked(answer['description'])} {_content(answer['content'])}</dd>")
    return "\n".join((*lines, "</dl>"))


def _content(content: dict[str, Any]) -> str:
    told = [
        f"{_kind(each['schema'])} (<code>{html.escape(media)}</code>){_about(each['schema'])}"
        for media, each in content.items()
    ]
    return ", or ".join(told)


def _about(schema: dict[str, Any]) -> str:
    """Of a stream: what its events are."""
    data = schema.get("properties", {}).get("data")
    return f": events with data, {_kind(data['contentSchema'])}. {_marked(data['description'])}" if data else ""


def _type(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        f"<tr><td><code>{html.escape(field)}</code></td><td>{_kind(kind)}</td>"
        f"<td>{'required' if field in required else ''}</td></tr>"
        for field, kind in schema.get("properties", {}).items()
    ]
    head = f'<h3 id="{html.escape(name)}">{html.escape(schema["title"])}</h3>'
    return "\n".join((head, f"<p>{_marked(schema.get('description', ''))}</p>", "<table>", *rows, "</table>"))


def _kind(schema: dict[str, Any]) -> str:
    """A field's type, in words and links."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name.replace("_", " ").strip()}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"] if each != {"type": "null"})
    if "enum" in schema:
        return " or ".join(f"<code>{html.escape(str(each))}</code>" for each in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of ({_kind(schema.get('items', {}))}){_bounds(schema)}"
    return html.escape(kind) + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    words = {"minimum": "from", "maximum": "to", "maxLength": "at most, in characters:", "maxItems": "at most:"}
    found = [f"{word} {schema[name]}" for name, word in words.items() if name in schema]
    return f", {' '.join(found)}" if found else ""


def _marked(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    parts = html.escape(" ".join(text.split())).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
