"""The page at /."""

import re
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from shared.catalog import Catalog, Family, Model
from tests.gateway.conftest import settings

pytestmark = pytest.mark.anyio


async def get(catalog: Catalog, path: str, host: str = "here:8000") -> httpx.Response:
    transport = httpx.ASGITransport(create_app(settings("redis://127.0.0.1:1/0"), catalog))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path, headers={"Host": host})


async def test_the_page_says_what_runs_and_how_to_call_it(catalog: Catalog) -> None:
    page = await get(catalog, "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert '<a href="https://example.com/card" rel="noopener noreferrer">Demo</a>' in page.text
    assert "<code>corolla/adapter</code>" in page.text
    assert "curl http://here:8000/api/v1/generate" in page.text
    assert 'new WebSocket("ws://here:8000/api/v2/generate")' in page.text
    assert not re.search(r"\$(?!\{)\w", page.text)


async def test_the_page_needs_nothing_inline(catalog: Catalog) -> None:
    page = (await get(catalog, "/")).text
    assert not re.search(r"<script|<style|style=|javascript:| on\w+=", page)
    assert re.findall(r'(?:href|src)="(/web/[^"]+)"', page) == ["/web/style.css"]
    style = await get(catalog, "/web/style.css")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")


async def test_what_others_wrote_is_escaped() -> None:
    model = Model("corolla/demo", "<b>$http & 'co'", model_card="javascript:alert(1)")
    page = await get(Catalog((Family("F", (model,)),), Path()), "/", host='x"><script>')
    assert "<td>&lt;b&gt;$http &amp; &#x27;co&#x27;</td>" in page.text
    assert "javascript:" not in page.text
    assert "<script" not in page.text


async def test_files_outside_are_not_served(catalog: Catalog) -> None:
    assert (await get(catalog, "/web/../pages.py")).status_code == 404
    assert (await get(catalog, "/web/%2e%2e/pages.py")).status_code == 404
