"""Draws the pictures of README.md and BUILD-notes.md, all from simulated films.

    python docs/pictures.py [WORKDIR [EXPLAINED]]

WORKDIR is that of the README's first command, EXPLAINED any workdir; without them, their pictures are left as they are.
That of the window needs Xvfb and ImageMagick.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter

from chexjax.data.cleaning import comparison
from chexjax.data.sources.phantom import ARTIFACTS, plan_films, render_film
from chexjax.predict import Classifier, draw
from chexjax.scanline import remove_artifacts

IMAGES = Path(__file__).parent / "images"
PLACED = ({"Cardiomegaly"}, {"Consolidation"}, {"Effusion"})  # findings that are large and have a place
SIDE, SHOWN = 180, 240  # of a detail: pixels of a film of 1024, pixels in the picture
OPTIONS: dict[str, dict[str, Any]] = {
    "edge_span": {"edge_span": 4},
    "axes": {"axes": (-1, -2)},
    "spare_wide": {"spare_wide": True},
}


def draw_option(name: str, option: dict[str, Any]) -> None:
    """The place of twelve films where an option of the scan line changes most: before, the rule, the option."""
    kinds = ("pacemaker",) if name == "spare_wide" else ARTIFACTS
    largest, panels = -1.0, []
    for film in plan_films(12, seed=0):
        before, _ = render_film(dataclasses.replace(film, artifacts=kinds), 1024)
        rule, other = (np.asarray(remove_artifacts(before, **chosen)) for chosen in ({}, option))
        gain = np.abs(rule.astype(float) - other) * ((other < rule) if name == "edge_span" else 1)
        local = uniform_filter(gain, SIDE)[SIDE // 2 : -SIDE // 2, SIDE // 2 : -SIDE // 2]
        if local.max() > largest:
            top, left = np.unravel_index(local.argmax(), local.shape)
            largest = float(local.max())
            panels = [image[top : top + SIDE, left : left + SIDE] for image in (before, rule, other)]
    labels = ("before", "the report's rule", ", ".join(f"{key}={value}" for key, value in option.items()))
    sheet = Image.new("L", (3 * SHOWN, SHOWN + 18))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, (panel, label) in enumerate(zip(panels, labels, strict=True)):
        detail = Image.fromarray(panel // 8 * 8).resize((SHOWN, SHOWN), Image.Resampling.NEAREST)
        sheet.paste(detail, (column * SHOWN, 18))
        draw.text((column * SHOWN + 4, 1), label, fill=255, font=font)
    sheet.quantize(32).save(IMAGES / f"scanline_{name}.png", optimize=True)


def draw_cleaning() -> None:
    """A film with wires and a marker, before and after the scan line, and what changed."""
    film = dataclasses.replace(plan_films(8, seed=4)[5], artifacts=("wires", "marker"))
    before, _ = render_film(film, 1024)
    after, mask = remove_artifacts(before, axes=(-1, -2), return_mask=True)
    sheet = comparison(before, np.asarray(after), np.asarray(mask))
    sheet.resize((900, round(900 * sheet.height / sheet.width))).quantize(64).save(
        IMAGES / "cleaning.png", optimize=True
    )


def draw_explained(workdir: Path) -> None:
    """An overlay, and the window with the same film, on a virtual screen: of the simulated films with one large finding
    the first where it comes out on top."""
    classifier = Classifier.from_checkpoint(workdir)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulated.png"
        for film in (film for film in plan_films(400, seed=9) if set(film.severities) in PLACED):
            (finding,) = film.severities
            pixels, _ = render_film(dataclasses.replace(film, severities={finding: 0.9}), 512)
            Image.fromarray(pixels).save(path)
            (prediction,) = classifier.predict(path)
            if prediction.ranked[0] == finding:
                break
        draw(prediction, finding, IMAGES / "overlay.png")
        Image.open(IMAGES / "overlay.png").resize((440, 415)).quantize(256).save(IMAGES / "overlay.png", optimize=True)
        screen = ["xvfb-run", "-a", "-s", "-screen 0 1200x690x24", "sh", "-c"]
        shoot = (
            f"{sys.executable} -m chexjax.viewer --checkpoint={workdir} {path} & "
            f"sleep 60; import -window root {folder}/w.png; kill $!"
        )
        subprocess.run([*screen, shoot], check=True)
        window = Image.open(f"{folder}/w.png").convert("RGB")
        window.resize((900, round(900 * window.height / window.width))).quantize(256).save(
            IMAGES / "window.png", optimize=True
        )


def draw_first_run(workdir: Path) -> None:
    """Six simulated films over the curves of the first run."""
    history = json.loads((workdir / "metrics.json").read_text())["history"]
    figure = plt.figure(figsize=(10, 4.6), layout="constrained", dpi=100)
    above, below = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    shown = ["No Finding", "Cardiomegaly", "Effusion", "Mass", "Pneumothorax", "Consolidation"]
    films = {(*film.severities, "No Finding")[0]: film for film in plan_films(3000) if len(film.severities) < 2}
    for axes, finding in zip(above.subplots(1, len(shown)), shown, strict=True):
        film = films[finding]
        severities = dict.fromkeys(film.severities, 0.8)
        axes.imshow(
            render_film(dataclasses.replace(film, severities=severities), 256)[0], cmap="gray", vmin=0, vmax=255
        )
        axes.set_title(finding, fontsize=9)
        axes.axis("off")
    left, right = below.subplots(1, 2)
    epochs = [entry["epoch"] for entry in history]
    for name in ("net1", "net2"):
        left.plot(epochs, [entry[f"val/{name}/loss"] for entry in history], label=name)
        right.plot(epochs, [entry[f"val/{name}/auroc"] for entry in history], label=name)
    left.set(xlabel="epoch", title="validation loss (nats)")
    right.set(xlabel="epoch", title="mean validation AUROC")
    left.legend()
    figure.savefig(IMAGES / "first-run.png", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    for option_name, chosen_option in OPTIONS.items():
        draw_option(option_name, chosen_option)
    draw_cleaning()
    if len(sys.argv) > 1:
        draw_first_run(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        draw_explained(Path(sys.argv[2]))
