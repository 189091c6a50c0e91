"""What pixels alone say: films pass, and each way of spoiling one is told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexjax.data.sources.phantom import plan_films, render_film
from chexjax.trust.gate import judge_pixels


@pytest.fixture(scope="module")
def films() -> list[np.ndarray]:
    return [render_film(film, 128)[0] for film in plan_films(20, seed=3)]


def test_simulated_films_pass(films: list[np.ndarray]) -> None:
    assert [judge_pixels(film).reasons for film in films] == [()] * len(films)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda film: film // 8, "of 256 grey levels"),  # nearly black, as by a window that one pixel stretched
        (lambda film: film // 8, "nearly black"),
        (lambda film: 230 + film // 10, "nearly white"),
        (lambda film: 100 + film // 8, "of 256 grey levels"),
        (lambda film: film // 64 * 64, "different grey levels"),
        (lambda film: np.clip(film.astype(int) * 3, 0, 255).astype(np.uint8), "clipped"),
        (lambda film: np.pad(film, 80), "of the pixels are black"),
    ],
)
def test_a_spoilt_film_is_doubtful_and_says_why(films: list[np.ndarray], spoil, message: str) -> None:
    for film in films:
        verdict = judge_pixels(spoil(film))
        assert verdict.status == "doubtful"
        assert any(message in reason for reason in verdict.reasons), verdict


def test_one_bright_pixel_does_not_hide_how_little_is_used(films: list[np.ndarray]) -> None:
    film = films[0] // 8
    film[0, 0] = 255
    assert f"uses {np.ptp(np.percentile(film, [1, 99], method='inverted_cdf')) + 1:.0f} of 256 grey levels" in (
        judge_pixels(film).reasons
    )


def test_real_films_pass(real_data: Path) -> None:
    paths = sorted((real_data / "nih-128" / "images").glob("*.png"))[::40]
    doubtful = [path.name for path in paths if judge_pixels(np.asarray(Image.open(path).convert("L"))).reasons]
    assert len(doubtful) <= len(paths) / 500
