"""The page as a person meets it: in Chromium, by mouse, by keyboard, on a narrow screen."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.app import create_app
from tests.chromium import chromium, visited
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 320, "height": 640}
_CONTRAST = """
() => {
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((s, w, i) => s + w * channel(rgb[i]), 0);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const rgb = numbers(getComputedStyle(node).backgroundColor);
      if (rgb.length < 4 || rgb[3] > 0) return rgb;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("body *")].filter((node) =>
    node.checkVisibility() && !node.closest(".unseen, .skip, svg") &&
    [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  return texts.map((node) => {
    let opacity = 1;
    for (let up = node; up; up = up.parentElement) opacity *= getComputedStyle(up).opacity;
    const back = behind(node);
    const ink = numbers(getComputedStyle(node).color);
    const seen = ink.map((c, i) => c * opacity + back[i] * (1 - opacity));
    const [low, high] = [light(seen), light(back)].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), node.className || node.tagName];
  });
}
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model over items some of whose titles are markup, and long."""
    workspace = tmp_path_factory.mktemp("workspace")
    dataset = write_tiny_dataset(workspace)
    items = pq.read_table(dataset.path / "items.parquet")
    titles = [f"{EVIL} {'x' * 200}" if n % 3 == 0 else f"Film {n}" for n in range(len(items))]
    place = items.column_names.index("title")
    pq.write_table(
        items.set_column(place, "title", pa.array(titles)), dataset.path / "items.parquet"
    )
    scorer = Scorer.load(write_small_bundle(workspace, dataset, texts=True))
    with visited(create_app(scorer, model_version="films/3", max_items=1000)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as browser:
        yield browser


def _open(browser: "Browser", url: str, **options: Any) -> "Page":
    """A page that fails the test if it complains, or asks for anything elsewhere."""
    options = {"viewport": WIDE, "reduced_motion": "reduce", **options}
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(10_000)
    page.wrong = []
    page.on("console", lambda message: page.wrong.append(message.text))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("dialog", lambda dialog: page.wrong.append(dialog.message))
    page.on("request", lambda asked: page.wrong.append(asked.url) if _is_away(asked.url) else None)
    page.goto(url)
    return page


def _is_away(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:"))


def _focused(page: "Page", what: str) -> Any:
    return page.evaluate(f"document.activeElement.{what}")


def test_loads_quietly_and_runs_nothing_it_was_told(browser: "Browser", address: str) -> None:
    page = _open(browser, f"{address}/?user=u4&item=i1")
    assert EVIL in page.locator("#chosen").inner_text()
    assert page.title() == "films/3 · lorecast"
    assert page.locator("main img").count() == 0
    assert page.wrong == []


def test_another_user(browser: "Browser", address: str) -> None:
    page = _open(browser, address)
    page.get_by_label("User", exact=True).fill("u7")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**/?user=u7")
    assert "u7" in page.locator("#history").inner_text()
    page.locator(".examples a").nth(1).click()
    page.wait_for_url(lambda url: "user=u7" not in url)
    assert page.locator(".examples a[aria-current]").count() == 1
    assert page.wrong == []


def test_an_item_in_place_and_back(browser: "Browser", address: str) -> None:
    page = _open(browser, f"{address}/?user=u4")
    first = page.locator("#chosen").inner_text()
    page.evaluate("window.stays = true")
    link = page.locator(".ranking").first.locator("a").nth(3)
    title = link.locator(".title").inner_text()
    link.click()
    page.wait_for_function("t => document.getElementById('chosen').innerText === t", arg=title)
    assert "item=" in page.url
    assert page.evaluate("window.stays")
    assert _focused(page, "id") == "item"
    assert page.locator(".ranking").first.locator("[aria-current]").inner_text().count(title) == 1
    page.go_back()
    page.wait_for_function("t => document.getElementById('chosen').innerText === t", arg=first)
    assert page.evaluate("window.stays")
    assert page.wrong == []


def test_both_rankings_point_at_an_item(browser: "Browser", address: str) -> None:
    page = _open(browser, f"{address}/?user=u4")
    items = [
        [link.get_attribute("data-item") for link in ranking.locator("a").all()]
        for ranking in page.locator(".ranking").all()
    ]
    both = next(item for item in items[0] if item in items[1])
    page.locator(f'.ranking a[data-item="{both}"]').first.hover()
    assert page.locator(".twin").count() == 2
    page.locator("#item").hover()
    assert page.locator(".twin").count() == 0


def test_by_keyboard_alone(browser: "Browser", address: str) -> None:
    page = _open(browser, f"{address}/?user=u4")
    page.keyboard.press("Tab")
    assert _focused(page, "className") == "skip"
    box = page.locator(".skip").bounding_box()
    assert box
    assert box["width"] > 50
    page.keyboard.press("Enter")
    assert _focused(page, "id") == "rankings"
    page.keyboard.press("Tab")
    first = _focused(page, "dataset.item")
    page.keyboard.press("ArrowDown")
    second = _focused(page, "dataset.item")
    assert second != first
    page.keyboard.press("ArrowUp")
    assert _focused(page, "dataset.item") == first
    page.keyboard.press("ArrowDown")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**item={second}*")
    assert _focused(page, "id") == "item"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert _focused(page, "id") == "rankings"
    assert page.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_fits_and_can_be_read(
    browser: "Browser", address: str, viewport: dict[str, int], scheme: str
) -> None:
    page = _open(browser, f"{address}/?user=u4&item=i5", viewport=viewport, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = page.evaluate(_CONTRAST)
    assert len(found) > 100
    assert [line for line in found if line[0] < 4.5] == []
    boxes = [link.bounding_box() for link in page.locator(".ranking").all()]
    left = {round(box["x"]) for box in boxes if box}
    assert len(left) == (2 if viewport is WIDE else 1)
    small = [
        b for b in (a.bounding_box() for a in page.locator("main a, button, input").all()) if b
    ]
    assert min(box["height"] for box in small) >= 18
    assert page.wrong == []


def test_one_part_has_one_name(browser: "Browser", address: str) -> None:
    """What a screen reader is told: one heading of the page, sections and links with names."""
    page = _open(browser, f"{address}/?user=u4")
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))
    names = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby]')].map("
        "(node) => document.getElementById(node.getAttribute('aria-labelledby'))?.innerText)"
    )
    assert all(names)
    assert page.get_by_role("region", name="With knowledge").count() == 1
    links = page.locator(".ranking a").all()
    assert all("knowledge" in (link.text_content() or "") for link in links)


def test_without_its_script(browser: "Browser", address: str) -> None:
    page = _open(browser, f"{address}/?user=u4", java_script_enabled=False)
    link = page.locator(".ranking").last.locator("a").nth(2)
    title = link.locator(".title").inner_text()
    link.click()
    page.wait_for_url("**#item")
    assert page.locator("#chosen").inner_text() == title
