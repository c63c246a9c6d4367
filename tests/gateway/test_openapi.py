"""The OpenAPI document, and the page that shows it."""

import json
import re
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from gateway.app import create_app
from gateway.openai_types import ChatRequest, CompletionRequest
from gateway.openapi import OPERATIONS, document
from shared.catalog import Catalog
from tests.gateway.conftest import settings

pytestmark = pytest.mark.anyio


async def get(catalog: Catalog, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(settings("redis://127.0.0.1:1/0"), catalog))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path)


def references(content: Any) -> set[str]:
    return set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(content)))


async def test_the_document_is_served(catalog: Catalog) -> None:
    answer = await get(catalog, "/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(json.dumps(document()))


def test_every_route_of_the_api_is_in_it(catalog: Catalog) -> None:
    app = create_app(settings("redis://127.0.0.1:1/0"), catalog)
    served = {
        (method.lower(), route.path.replace(":path", ""))
        for route in app.routes
        if isinstance(route, Route) and route.path.startswith("/v1/")
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert {(operation.method, operation.path) for operation in OPERATIONS} == served


def test_its_types_are_those_of_the_messages() -> None:
    schemas = document()["components"]["schemas"]
    assert set(schemas["ChatRequest"]["properties"]) == set(ChatRequest.__struct_fields__)
    assert set(schemas["CompletionRequest"]["properties"]) == set(CompletionRequest.__struct_fields__)
    assert references(document()) == set(schemas)


async def test_the_page_shows_all_of_it_without_anything_from_elsewhere(catalog: Catalog) -> None:
    page, style = await get(catalog, "/docs"), await get(catalog, "/docs.css")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
    assert not re.search(r"<script|<style|style=|javascript:| on\w+=|https?://", page.text)
    assert re.findall(r'(?:href|src)="(/[^"]+)"', page.text) == ["/docs.css", "/openapi.json"]
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    for operation in OPERATIONS:
        assert f"<code>{operation.method.upper()} {operation.path}</code>" in page.text
    links, targets = re.findall(r'href="#([^"]+)"', page.text), re.findall(r'id="([^"]+)"', page.text)
    assert set(links) == set(targets) == set(document()["components"]["schemas"])
    assert "<td><code>temperature</code></td><td>number, from 0 to 2</td>" in page.text
