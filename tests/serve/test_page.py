"""The page in a real browser: a film is dropped or chosen; by keyboard, and on a narrow screen."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from chexjax.predict import Classifier
from chexjax.serve.page import film_page
from chexjax.serve.service import Limits
from tests.serve.browser import Tab, chromium
from tests.serve.conftest import encoded, film_of, serving

EVIL = "<img src=x onerror=alert(1)>.png"
TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no Chromium is installed")
    with chromium(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.png"
    path.write_bytes(encoded(film_of(3, 400)))
    return path


def rows(tab: Tab) -> list[list[str]]:
    cells = "[...row.children].map(cell => cell.textContent)"
    return tab.evaluate(f"[...document.querySelectorAll('#findings tr')].map(row => {cells})")


def address(client: httpx.Client) -> str:
    return f"http://localhost:{client.base_url.port}/"


def await_answer(tab: Tab) -> None:
    tab.wait("!document.getElementById('result').hidden")


def keep(tab: Tab, name: str) -> None:
    """The page as a picture, for who wants to look: CHEXJAX_PICTURES names a folder."""
    if folder := os.environ.get("CHEXJAX_PICTURES"):
        tab.picture(Path(folder) / name)


def test_a_dropped_film(tab: Tab, client: httpx.Client, classifier: Classifier, film: Path) -> None:
    tab.open(address(client))
    keep(tab, "start.png")
    tab.drop("document.getElementById('drop')", film)
    await_answer(tab)
    (expected,) = classifier.predict([film])
    shown = rows(tab)
    assert [row[0] for row in shown] == [finding.replace("_", " ") for finding in expected.ranked]
    for row, finding in zip(shown, expected.ranked, strict=True):
        assert float(row[1]) == pytest.approx(expected.probability(finding), abs=6e-4)
        known = row[2] != "–"
        assert row[3] == (("yes" if finding in expected.called else "no") if known else "–")
    assert tab.evaluate("document.getElementById('verdict').textContent").startswith(expected.verdict.status)
    images = tab.evaluate("[...document.images].map(image => [image.naturalWidth, image.alt])")
    assert len(images) == min(len(expected.called), 3)
    for (width, about), finding in zip(images, expected.called, strict=False):
        assert width > 600
        assert finding.replace("_", " ") in about
    assert classifier.restored.digest in tab.evaluate("document.getElementById('model').textContent")
    keep(tab, "wide.png")
    assert not tab.complaints()


def test_a_map_that_was_not_shown_to_point(tab: Tab, checked: Classifier, film: Path) -> None:
    (expected,) = checked.predict([film])
    with serving(checked, Limits(batch=4)) as (client, _):
        tab.open(address(client))
        tab.drop("document.getElementById('drop')", film)
        await_answer(tab)
        captions = tab.evaluate("[...document.querySelectorAll('figcaption')].map(each => each.textContent)")
    notes = {finding.replace("_", " "): note for finding, note in checked.map_notes.items()}
    assert len(notes) == 13
    names = [finding.replace("_", " ") for finding in expected.called[:3]]
    assert captions == [f"{name}: {notes[name]}" if name in notes else name for name in names]
    assert any(": map not" in caption for caption in captions)


def test_a_narrow_screen_needs_no_sideways_scrolling(tab: Tab, client: httpx.Client, film: Path) -> None:
    tab.open(address(client), 360, 740)
    tab.choose("#film", film)
    await_answer(tab)
    keep(tab, "narrow.png")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    wide = tab.evaluate("document.getElementById('scroll').scrollWidth")
    assert wide <= tab.evaluate("document.getElementById('scroll').clientWidth")
    tab.open(f"{address(client)}docs", 360, 740)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    keep(tab, "docs.png")


def test_by_keyboard_alone(tab: Tab, client: httpx.Client, film: Path) -> None:
    tab.open(address(client))
    tab.call("Page.setInterceptFileChooserDialog", enabled=True)
    tab.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "film"
    ring = tab.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle")
    assert ring == "solid"  # one sees where one is
    tab.events.clear()
    tab.press("Enter", text="\r", windowsVirtualKeyCode=13)
    tab.wait("true")
    opened = [event["params"] for event in tab.events if event["method"] == "Page.fileChooserOpened"]
    assert opened
    tab.call("DOM.setFileInputFiles", files=[str(film)], backendNodeId=opened[0]["backendNodeId"])
    await_answer(tab)
    assert tab.evaluate("document.getElementById('state').getAttribute('role')") == "status"
    tab.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "scroll"  # the table, which may scroll
    tab.call("Page.setInterceptFileChooserDialog", enabled=False)


def test_names_are_text_and_mistakes_are_told(tab: Tab, client: httpx.Client, tmp_path: Path, film: Path) -> None:
    tab.open(address(client))
    evil = tmp_path / EVIL
    evil.write_bytes(b"no film")
    tab.drop("document.querySelector('h1')", evil)  # anywhere on the page
    tab.wait("document.getElementById('state').className === 'wrong'")
    message = tab.evaluate("document.getElementById('state').textContent")
    assert message.startswith(f"{EVIL}: ")
    assert "not an image" in message
    assert tab.evaluate("document.images.length") == 0
    tab.drop("document.querySelector('h1')", evil, film)
    assert "One film at a time" in tab.evaluate("document.getElementById('state').textContent")
    tab.drop("document.querySelector('h1')", film)
    await_answer(tab)
    assert tab.evaluate("location.pathname") == "/"
    assert tab.evaluate("performance.getEntriesByType('resource').every(each => each.name.startsWith(location.origin))")


def test_a_refused_film(tab: Tab, classifier: Classifier, tmp_path: Path) -> None:
    icon = tmp_path / "icon.png"
    icon.write_bytes(encoded(film_of(0, 30)))
    with serving(classifier, Limits()) as (client, _):
        tab.open(address(client))
        tab.drop("document.querySelector('h1')", icon)
        await_answer(tab)
    assert tab.evaluate("document.getElementById('verdict').textContent") == "refused: only 22 x 30 pixels"
    assert rows(tab) == []
    assert "Refused" in tab.evaluate("document.getElementById('caption').textContent")
    keep(tab, "refused.png")


def test_a_service_with_a_token_asks_for_it(tab: Tab, classifier: Classifier, film: Path) -> None:
    with serving(classifier, Limits(), TOKEN) as (client, _):
        tab.open(address(client))
        assert tab.evaluate("document.getElementById('asked').hidden")
        tab.drop("document.querySelector('h1')", film)
        tab.wait("document.activeElement.id === 'token'")
        tab.type("wrong")
        tab.press("Enter", text="\r", windowsVirtualKeyCode=13)
        tab.wait("document.getElementById('state').textContent.includes('asks for its access token')")
        tab.evaluate("document.getElementById('token').value = ''")
        tab.type(TOKEN)
        tab.press("Enter", text="\r", windowsVirtualKeyCode=13)
        await_answer(tab)
        assert TOKEN not in tab.evaluate("location.href + JSON.stringify(localStorage) + document.cookie")
    assert len(rows(tab)) == 14
    tab.drop("document.querySelector('h1')", film)
    tab.wait("document.getElementById('state').textContent === 'The service does not answer.'")


def test_what_a_finding_is_called_is_text() -> None:
    text, policy = film_page(["Mass", "</script><script>alert(1)</script>"])
    assert "alert(1)" not in text  # only findings that the page has something to say of are there
    assert text.count("<script") == 2
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert text.count(f'nonce="{nonce}"') == 2
    assert nonce != film_page([])[1].partition("'nonce-")[2].partition("'")[0]
