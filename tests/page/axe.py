"""axe-core, which looks for what keeps people from using a page."""

import functools

from playwright.async_api import Page

from gateway.assets import WEB


@functools.cache
def _script() -> str:
    return (WEB / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


async def violations(page: Page, *rules: str) -> list[str]:
    """What it finds on the page as it is: the rule, and where. rules: only these ones, where any are given."""
    await page.evaluate(f"{_script()}; null")
    options = {"runOnly": rules} if rules else {}
    found = await page.evaluate("options => axe.run(options).then(({ violations }) => violations)", options)
    return [f"{each['id']}: {node['html']} {node['failureSummary']}" for each in found for node in each["nodes"]]
