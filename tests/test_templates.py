"""Pages: text is escaped in every place of every template, what is missing is an error, and the wheel holds them."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from chexjax import templates
from chexjax.evaluation.tables import Table
from chexjax.templates import render

EVIL = "</td></title><script>alert('1')</script>\" onload=x &"


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.names: list[str] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names += [name for name, _ in attributes]

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_a_score_of_hostile_text_is_text() -> None:
    table = Table(EVIL, [EVIL, f"{EVIL} (95 %)"], [[EVIL, f"0.5 ({EVIL})"]], lead=1)
    text = render(
        "score.html", title=EVIL, subtitle=EVIL, headings=["Notes", EVIL, "ROC curves", "Reliability",
        "Not a medical device"], notes=[EVIL], tables=[table], names=[EVIL], roc={EVIL: EVIL}, calibrated=[EVIL],
        reliability={},
    )  # fmt: skip
    page = Page(text)
    assert "script" not in page.tags
    assert "onload" not in page.names
    assert page.shown.count(EVIL) >= 9
    assert page.tags.count("small") == 2


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="subtitle"):
        render("score.html", title="a")


def test_every_file_of_the_folder_is_used_by_a_page() -> None:
    folder = Path(templates.__file__).parent
    texts = [path.read_text() for path in folder.iterdir() if path.suffix in (".html", ".py")]
    texts += [path.read_text() for path in folder.parent.rglob("*.py") if path.parent != folder]
    for path in folder.iterdir():
        if path.suffix in (".html", ".css", ".js"):
            assert any(f'"{path.name}"' in text for text in texts), path
