"""Drawing decisions: colours, windows, blending, boxes in film pixels, and the page, against what they promise."""

import html.parser
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont

from chexjax.explain import overlay
from chexjax.explain.gallery import Card, gallery
from chexjax.explain.maps import MapBox
from chexjax.findings import FINDINGS

MAP = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


def test_window() -> None:
    film = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(overlay.window(film), film)
    narrow = overlay.window(film, center=100, width=50).ravel()
    assert not narrow[:75].any()
    assert (narrow[125:] == 255).all()
    assert abs(int(narrow[100]) - 128) <= 1
    assert set(overlay.window(film, 100, 0.0).ravel()) <= {0, 128, 255}


@pytest.mark.parametrize("opacity", [0.0, 0.4, 1.0])
def test_blending_is_a_mean_weighted_by_the_map(opacity: float) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (6, 9), np.uint8)
    values = np.random.default_rng(2).random((6, 9)).astype(np.float32)
    found = overlay.blend(grey, values, opacity)
    for i, j, c in np.ndindex(6, 9, 3):
        level = round(float(values[i, j]) * 255)
        cover = opacity * level / 255
        colour = float(overlay.PALETTE[level][c])
        assert abs(found[i, j, c] - (grey[i, j] * (1 - cover) + colour * cover)) <= 0.501
    assert overlay.blend(grey, np.zeros((6, 9), np.float32), opacity)[..., 0].tolist() == grey.tolist()


def test_annotated_film_shows_box_bar_and_film() -> None:
    film = np.full((300, 200), 100, np.uint8)
    values = np.zeros((6, 4), np.float32)
    values[0, 0] = 1.0
    sheet = overlay.annotate(film, values, [MapBox(100, 150, 50, 75, 1.0)], "a title " * 40, side=600)
    pixels = np.asarray(sheet)
    assert sheet.size == (400 + 64, 600 + 24)
    assert pixels[24 + 300, 200:300].tolist() == [[255, 255, 255]] * 100  # the box's upper edge
    assert pixels[24 + 590, 390].tolist() == [100, 100, 100]
    assert pixels[24 + 10, 10].tolist() != [100, 100, 100]
    top, bottom = (pixels[row, 400 + 16].astype(int) for row in (24 + 22, 24 + 600 - 22))
    assert np.abs(top - overlay.PALETTE[255]).max() < 12
    assert np.abs(bottom - overlay.PALETTE[0]).max() < 12


def test_text_is_cut_to_its_place() -> None:
    font = ImageFont.load_default(14)
    assert overlay.fit_text("short", 500, font) == "short"
    cut = overlay.fit_text("a long line of text", 60, font)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 60


class Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_escapes_names_and_needs_no_network() -> None:
    name = '<script>alert("1")</script>&".png'
    thresholds = (0.5, None) * 7
    probabilities = tuple(k / 14 for k in range(14))
    cards = [Card(name, (("Mass", 'overlays/a"b#1.png'),), probabilities, thresholds)] * 2
    page = gallery(cards, FINDINGS, "title <b>", "note & more", {"Mass": 'a hint\'s "<b>"'})
    parsed = Page()
    parsed.feed(page)
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("script") == 1
    assert tags.count("article") == 2
    assert tags.count("option") == 15
    assert name in parsed.text
    (source, *_) = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert source == "overlays/a%22b%231.png"
    assert not re.search(r"https?://|@import|url\(", page)
    above = re.findall(r"<tr class=above><td>(.*?)</td>", page)
    expected = [
        f.replace("_", " ") for f, p, t in zip(FINDINGS, probabilities, thresholds, strict=True) if t and p >= t
    ]
    assert above == 2 * expected


def test_the_overlay_is_an_image_without_metadata(tmp_path: Path) -> None:
    sheet = overlay.annotate(np.full((10, 10), 9, np.uint8), MAP, [], "t")
    sheet.save(tmp_path / "a.png")
    assert not Image.open(tmp_path / "a.png").info


def test_the_palette_is_turbo_without_its_darkest_ends() -> None:
    turbo = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.93, 256))[:, :3]
    np.testing.assert_array_equal(overlay.PALETTE, (turbo * 255).round())
