"""Simulated chest films in the layout of ChestX-ray14: they enter the library at the same door as the real ones.

Three steps, each usable alone: `plan_films` draws the table of patients, films and findings (labels only, thousands a
second); `render_film` draws one film; `write_films` writes the folder. A film depends on its seed, patient and
follow-up number alone, so neither the number of films nor of processes changes it, and two folders of one seed that
differ in an option (no artefacts, say) hold the same films but for that option.
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
