"""What the gateway serves of the page; what it does in a browser is tested in tests/page."""

import dataclasses
import gzip
import json
import re
import tomllib
from pathlib import Path

import httpx
import pytest

from gateway import assets
from gateway.app import create_app
from gateway.assets import CHAT, OWN, PACKAGED, STATUS, WEB
from shared.catalog import Catalog
from tests.gateway.conftest import settings

pytestmark = pytest.mark.anyio

INSTALLED = pytest.mark.skipif(bool(assets.load().missing), reason="`npm ci` in gateway/web was not done")


async def get(catalog: Catalog, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(settings("redis://127.0.0.1:1/0"), catalog))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path, headers=headers)


@INSTALLED
@pytest.mark.parametrize("path", ["/", "/status"])
async def test_the_page(catalog: Catalog, path: str) -> None:
    page = await get(catalog, path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert "$" not in page.text
    again = await get(catalog, path, **{"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@INSTALLED
async def test_the_policy_has_no_exceptions(catalog: Catalog) -> None:
    policy = (await get(catalog, "/")).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert not re.search(r"unsafe|data:|https?:|\*|nonce|sha256", policy)


@INSTALLED
@pytest.mark.parametrize("path", ["/", "/status"])
async def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(catalog: Catalog, path: str) -> None:
    page = (await get(catalog, path)).text
    assert not re.search(r"<script(?![^>]* src=)|<style|style=|javascript:| on\w+=", page)
    version = assets.load().version
    for link in re.findall(r'(?:href|src)="([^"#]+)"', page):
        assert link.startswith(f"/web/{version}/") or link in ("/", "/status", "/docs", "/api/v1/status")


@INSTALLED
async def test_a_file_may_be_kept_for_ever(catalog: Catalog) -> None:
    path = f"/web/{assets.load().version}/app.js"
    plain = await get(catalog, path, **{"accept-encoding": "identity"})
    assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.content == (WEB / "app.js").read_bytes()
    packed = await get(catalog, path)
    assert (packed.headers["content-encoding"], packed.content) == ("gzip", plain.content)


@pytest.mark.parametrize(
    "path",
    ["app.mjs", "index.html", "package.json", "%2e%2e/pages.py", "node_modules/marked/package.json"],
)
async def test_other_files_are_not_served(catalog: Catalog, path: str) -> None:
    assert (await get(catalog, f"/web/{assets.load().version}/{path}")).status_code == 404


async def test_for_another_version_this_one_does_once(catalog: Catalog) -> None:
    found = await get(catalog, "/web/0123456789abcdef/app.js")
    assert (found.status_code, found.content) == (200, (WEB / "app.js").read_bytes())
    assert found.headers["cache-control"] == "no-store"


async def test_without_its_packages_the_page_says_what_to_do(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = dataclasses.replace(assets.load(), missing=("node_modules/marked/lib/marked.esm.js",))
    monkeypatch.setattr(assets, "load", lambda: loaded)
    page = await get(catalog, "/")
    assert page.status_code == 503
    assert "npm ci" in page.text
    assert (await get(catalog, "/status")).status_code == 200
    assert (await get(catalog, "/health/live")).status_code == 200


def test_every_module_is_listed_and_imported() -> None:
    scripts = {file.name for file in WEB.glob("*.js")}
    assert scripts == {path for path in OWN if path.endswith(".js")}
    imported = set()
    for name in scripts:
        imported |= set(re.findall(r'(?:from|import) "\./([^"]+)"', (WEB / name).read_text()))
    assert imported == {*CHAT, *STATUS, *PACKAGED} - {"app.js", "status.js"}


@INSTALLED
def test_the_page_is_light() -> None:
    loaded = assets.load()
    index = gzip.compress((WEB / "index.html").read_bytes())
    assert sum(len(each.gzipped) for each in loaded.files.values()) + len(index) < 300_000


def test_versions_are_pinned_and_no_registry_is_named() -> None:
    package = json.loads((WEB / "package.json").read_text())
    lock = json.loads((WEB / "package-lock.json").read_text())
    wanted = {**package["dependencies"], **package["devDependencies"]}
    locked = {path.removeprefix("node_modules/"): each["version"] for path, each in lock["packages"].items() if path}
    assert {name: locked[name] for name in wanted} == wanted
    assert not re.search(r"resolved|https?://", Path(WEB / "package-lock.json").read_text())


@INSTALLED
def test_the_package_contains_the_page() -> None:
    project = tomllib.loads((WEB.parents[1] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["gateway"]
    files = {str(file.relative_to(WEB.parent)) for pattern in patterns for file in WEB.parent.glob(pattern)}
    assert {f"web/{path}" for path in (*OWN, *PACKAGED, "index.html", "status.html")} - set(
        assets.load().missing
    ) <= files
