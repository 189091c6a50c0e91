"""Simulated chest films in the layout of ChestX-ray14, read exactly as the real ones are.

Three steps, each usable alone: `plan_films` draws the table of patients, films and findings (labels only, thousands per
second); `render_film` draws one film; `write_films` writes the folder. A film depends only on its seed, patient and
follow-up number, not on the number of films or processes. Two folders with the same seed that differ in one option (no
artefacts, say) hold the same films apart from that option.
"""

from chexjax.data.sources.phantom.drawing import ARTIFACTS, Film, FindingBox, film_anatomy, render_film
from chexjax.data.sources.phantom.folder import VERSION, open_folder, write_films
from chexjax.data.sources.phantom.table import plan_films, prevalence

__all__ = [
    "ARTIFACTS",
    "VERSION",
    "Film",
    "FindingBox",
    "film_anatomy",
    "open_folder",
    "plan_films",
    "prevalence",
    "render_film",
    "write_films",
]
