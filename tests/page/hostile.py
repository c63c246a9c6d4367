"""What a model, or whoever made a file for import, may write to do harm."""

from playwright.async_api import Request

from tests.browser import ChatPage

HOSTILE = """ <script>window.harmed = 1</script>

<img src="https://evil.example/a.png" onerror="window.harmed = 2">

![picture](https://evil.example/b.png) and [a link](javascript:window.harmed=3)
<a href="javascript:window.harmed=4">x</a>

[data](data:text/html,<script>window.harmed=5</script>) [good](https://example.com/)

<svg onload="window.harmed=6"><style>* { display: none }</style></svg> <iframe src="https://evil.example/"></iframe>

<form action="https://evil.example/"><input name="q"><button>Send</button></form> <b onclick="window.harmed=7">bold</b>

`<script>window.harmed=8</script>`

```html
<img src=x onerror="window.harmed = 9">
```

| <img src=y onerror=window.harmed=10> | b |
|---|---|
| [c](vbscript:d) | ![e](//evil.example/f.png) |
"""
# The only drawings and buttons in a text are the page's own, for copying code.
FORBIDDEN = (
    "script, img, style, iframe, form, object, embed, input:not([type=checkbox]), [style], [onclick], [onerror],"
    " :not(figcaption) > button, :not(button) > svg"
)


def foreign_requests(page: ChatPage) -> list[str]:
    """What the page asks of where it must not, from now on."""
    found: list[str] = []

    def hear(request: Request) -> None:
        if "evil.example" in request.url:
            found.append(request.url)

    page.page.on("request", hear)
    return found


async def assert_harmless(page: ChatPage) -> None:
    """The answer is HOSTILE; it is shown, and did nothing."""
    await page.shows(page.answer, "<script>window.harmed = 1</script>")
    text = page.page.locator(".assistant .text")
    assert await text.locator(FORBIDDEN).count() == 0
    hrefs = await text.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert set(hrefs) <= {None, "https://example.com/", "https://evil.example/b.png"}
    await page.shows(text.locator("figure.code"), '<img src=x onerror="window.harmed = 9">')
    assert await page.page.evaluate("window.harmed") is None
