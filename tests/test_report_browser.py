"""The report page in a real browser: nothing is fetched, and all of it can be used with mouse, keyboard and phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from browser import Browser
from robustiqa.leaderboard.report import report
from test_palette import contrast
from test_report import HOSTILE, hostile, made_up, pictured  # noqa: F401  (fixtures)

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "all there")
BOARD = "#board tbody tr.row"


@pytest.fixture(scope="module")
def page(hostile: Path) -> Path:  # noqa: F811
    return report(hostile)


@pytest.fixture(scope="module")
def plain(pictured: Path) -> Path:  # noqa: F811
    """The page of a run with ordinary names, and pictures."""
    return report(pictured)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def opened(chromium: Browser, page: Path) -> Browser:
    """The page of the hostile run, at desktop width."""
    chromium.size(1400)
    chromium.open(page)
    chromium.wait(lambda: chromium.do("return document.documentElement.dataset.ready"))
    return chromium


def draw_everything(opened: Browser) -> None:
    for place in ("trade", "certified", "scatter", "gains", "heat"):
        opened.do("document.getElementById(arguments[0]).scrollIntoView({behavior: 'instant'})", place)
        opened.wait(lambda place=place: opened.do(
            "return document.querySelectorAll(`#${arguments[0]}-plot svg, #${arguments[0]}-plot table`).length", place
        ))  # fmt: skip


def test_it_asks_for_nothing_and_complains_of_nothing(opened: Browser, page: Path) -> None:
    opened.said()
    opened.asked_for()
    opened.open(page)
    draw_everything(opened)
    for tab in range(5):
        opened.do("document.querySelectorAll('[role=tab]')[arguments[0]].click()", tab)
    assert opened.asked_for() == [page.as_uri()]
    assert opened.said() == []
    entries = opened.do("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in entries if not name.startswith("data:")] == []


def test_what_hostile_names_would_do_does_not_happen(opened: Browser) -> None:
    """An alert would block the browser; no element came out of a name; the name is shown as it is."""
    assert opened.do("return document.querySelectorAll('img, iframe, object').length") == 0
    assert opened.do("return document.querySelector('h1').textContent") == HOSTILE
    names = opened.do("return [...document.querySelectorAll('#board b')].map((e) => e.textContent)")
    assert f"evil{HOSTILE}" in names
    commands = opened.do("return [...document.querySelectorAll('#board td:last-child button')].map((e) => e.title)")
    assert all(re.fullmatch(r"robustiqa reproduce [\w-]+ --from OUT", text) for text in commands), (
        "a row's id, not its names"
    )
    assert len(commands) == 3


def test_the_policy_stops_scripts_and_requests(opened: Browser) -> None:
    """What the page's own policy is for: a script or a picture that got in after all is not run and not fetched."""
    opened.asked_for()
    opened.do("""
        const script = document.createElement('script');
        script.textContent = 'window.broken = 1';
        document.body.append(script);
        const image = new Image();
        image.src = 'https://example.org/x.png';
        document.body.append(image);
        fetch('https://example.org/').catch(() => {});
    """)
    assert opened.do("return window.broken") is None
    said: list[str] = []
    opened.wait(lambda: said.extend(opened.said()) or len([t for t in said if "Content Security Policy" in t]) >= 3)
    assert opened.asked_for() == []


def test_columns_sort_both_ways_by_keyboard(opened: Browser) -> None:
    button = opened.driver.find_element("css selector", "#board [data-key=srocc]")
    button.send_keys("\ue007")  # Enter
    column = next(k for k, text in enumerate(opened.texts("#board thead th")) if text in ("SROCC ↓", "SROCC\n↓"))
    head = "#board thead th:has([data-key=srocc])"
    assert opened.do("return document.querySelector(arguments[0]).getAttribute('aria-sort')", head) == "descending"
    figures = [float(t) for t in opened.texts(f"{BOARD} > :nth-child({column + 1})")]
    assert figures == sorted(figures, reverse=True)
    # the focus is where it was, so that pressing again turns the order around
    opened.driver.switch_to.active_element.send_keys(" ")
    assert opened.do("return document.querySelector(arguments[0]).getAttribute('aria-sort')", head) == "ascending"
    assert [float(t) for t in opened.texts(f"{BOARD} > :nth-child({column + 1})")] == sorted(figures)


def test_filters_by_text_and_kind(opened: Browser) -> None:
    assert len(opened.texts(BOARD)) == 3
    opened.driver.find_element("id", "filter").send_keys("dms")
    assert len(opened.texts(BOARD)) == 1
    assert opened.texts("#count") == ["1 of 3 rows"]
    opened.do("const f = document.getElementById('filter'); f.value = ''; f.dispatchEvent(new Event('input'))")
    chips = opened.driver.find_elements("css selector", "#kinds button")
    certified = next(chip for chip in chips if "certified" in chip.text)
    certified.click()
    assert certified.get_attribute("aria-pressed") == "false"
    assert not any("dms-iqa" in text for text in opened.texts(BOARD))


def test_tracks_by_arrow_keys(opened: Browser) -> None:
    tab = opened.driver.find_element("id", "tab-overall")
    tab.click()
    tab.send_keys("\ue014")  # right
    chosen = "[role=tab][aria-selected=true]"
    assert opened.texts(chosen) == ["Certified l2"]
    assert len(opened.texts(BOARD)) == 1, "one defence has a certificate"
    # It was violated: no rank, and the flag leads to its explanation.
    assert opened.texts(f"{BOARD} > :first-child") == ["–"]
    flag = opened.driver.find_element("css selector", f"{BOARD} .flag")
    assert str(flag.get_attribute("href")).endswith("#flag-certificate-violated")
    assert "leaves the certificate" in opened.texts("#flag-certificate-violated dd")[0]


def test_details_hold_the_command(opened: Browser, plain: Path) -> None:
    opened.open(plain)
    button = opened.driver.find_element("css selector", f"{BOARD} [aria-expanded]")
    button.send_keys(" ")
    assert opened.do("return document.activeElement.getAttribute('aria-expanded')") == "true"
    assert opened.texts("tr.details .command code")[0].endswith(" --from OUT")
    opened.do("document.querySelector('tr.details .command button').focus()")
    opened.driver.switch_to.active_element.send_keys(" ")
    opened.wait(lambda: opened.texts("tr.details .command button") == ["Copied ✓"])


def test_everything_is_reached_by_the_keyboard(opened: Browser) -> None:
    """From the top, Tab comes to the skip link, which leads to the boards; and what is focused can be seen."""
    opened.do("window.scrollTo(0, 0); document.activeElement.blur()")
    body = opened.driver.find_element("tag name", "body")
    body.send_keys("\ue004")
    assert opened.do("return document.activeElement.className") == "skip"
    opened.driver.switch_to.active_element.send_keys("\ue007")
    assert opened.do("return location.hash") == "#boards"
    seen = set()
    for _ in range(60):
        opened.driver.switch_to.active_element.send_keys("\ue004")
        seen.add(opened.do("const e = document.activeElement; return e.id || e.dataset.key || e.tagName"))
        assert opened.do("""
            const e = document.activeElement;
            return e === document.body || getComputedStyle(e).outlineStyle !== 'none';
        """)
    assert {"tab-overall", "filter", "gain", "srocc", "board", "trade-threat"} <= seen


def test_violations_have_a_shape_of_their_own(opened: Browser) -> None:
    draw_everything(opened)
    words = opened.texts("#scatter-plot .panel p")
    assert len(words) == 1
    assert "violation" in words[0]
    assert "✕" in words[0]


@pytest.mark.parametrize("width", [375, 800])
def test_nothing_is_wider_than_a_small_screen(opened: Browser, page: Path, width: int) -> None:
    opened.size(width)
    opened.open(page)
    draw_everything(opened)
    assert opened.do("return document.documentElement.scrollWidth") == width


def test_colours_follow_the_system_and_the_button(opened: Browser) -> None:
    def background() -> str:
        return opened.do("return getComputedStyle(document.body).backgroundColor")

    opened.scheme("light")
    light = background()
    opened.scheme("dark")
    dark = background()
    assert light != dark
    button = opened.driver.find_element("id", "theme")
    button.click()
    assert background() == light
    button.click()
    assert background() == dark
    button.click()
    opened.scheme("light")
    assert background() == light


def test_tables_without_scripts(opened: Browser, page: Path) -> None:
    opened.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.open(page)
        names = [e.text for e in opened.driver.find_elements("css selector", "#boards tbody th")]
        assert "dms-iqa[sigma=0.12]" in names
        assert not opened.driver.find_element("id", "trade").is_displayed()
    finally:
        opened.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_names_and_contrasts_that_axe_asks_for(opened: Browser) -> None:
    """What axe-core found once: names on parts without a role, regions of one name, text on colours of heat maps."""
    draw_everything(opened)
    assert opened.do("return document.querySelectorAll('.plot svg.rq-plot g[aria-label]').length") == 0
    pictures = opened.do("return [...document.querySelectorAll('svg.rq-plot')].map((e) => "
                         "[e.getAttribute('role'), e.getAttribute('aria-label')])")  # fmt: skip
    assert pictures
    assert all(role == "img" and name for role, name in pictures)
    named = opened.do("return [...document.querySelectorAll('[role=region]')].map((e) => e.getAttribute('aria-label'))")
    assert len(named) == len(set(named)) >= 4
    theme = opened.driver.find_element("id", "theme")
    assert theme.find_element("css selector", "span").text in str(theme.get_attribute("aria-label"))
    colours = opened.do("""
        return d3.range(0, 1.001, 0.01).map((t) => [viridis(t), inkOn(viridis(t))]
            .map((c) => { const { r, g, b } = d3.rgb(c); return [r, g, b]; }));
    """)
    assert min(contrast(*(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in pair)) for pair in colours) >= 4.5


def choose(opened: Browser, select: str, place: int) -> None:
    opened.do("""
        const select = document.getElementById(arguments[0]);
        select.selectedIndex = arguments[1];
        select.dispatchEvent(new Event('change'));
    """, select, place)  # fmt: skip


def test_the_gallery_shows_each_defence(opened: Browser, plain: Path) -> None:
    opened.open(plain)
    opened.do("document.getElementById('gallery').scrollIntoView({behavior: 'instant'})")
    assert len(opened.texts("#gallery-grid .shot")) == 2
    widths = "return [...document.querySelectorAll('#gallery-grid img')].map((e) => e.naturalWidth)"
    opened.wait(lambda: opened.do(widths) == [128] * 6)
    assert "difference × 32" in opened.texts("#gallery-grid figcaption")
    before = opened.do("return document.querySelector('#gallery-grid img').alt")
    choose(opened, "gallery-image", 1)
    assert opened.do("return document.querySelector('#gallery-grid img').alt") != before
    choose(opened, "gallery-view", 1)
    picture = "return document.querySelector('#gallery-grid img').src"
    press = "document.querySelector('#gallery-grid .trio button').dispatchEvent(new PointerEvent(arguments[0]))"
    clean = opened.do(picture)
    opened.do(press, "pointerdown")
    assert opened.do(picture) != clean
    opened.do(press, "pointerup")
    assert opened.do(picture) == clean
