"""How good are labels extracted from reports? Labels and models against radiologists on the same films.

    python -m benchmarks.label_quality --labels=Data_Entry_2017.csv --readers=READERS.csv NAME=PREDICTIONS.csv...

READERS.csv is Google's table (Majkowska et al., "Chest radiograph interpretation with deep learning models", Radiology
2020: four findings adjudicated by radiologists, YES or NO) or the RSNA's (`Image Index`, `class`, `target`: Lung
Opacity; Shih et al., Radiology: AI 2019). The NIH's findings that stand for a reader's are those of
`labels.WIDE_LABELS`; a film has it if it has one of them, and a model's score is the highest of their probabilities.

First the labels against the readers: sensitivity, specificity, positive predictive value, Cohen's kappa. Then each
model against both, on the films that it has: AUROC with DeLong's interval (clustered by patient), and with whom it
agrees where labels and readers differ. For that it calls as many films as the readers do.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.contest import finish, introduce
from chexjax.data.labels import evaluable, preferred_name
from chexjax.data.sources.nih import Entry, read_entry_file
from chexjax.data.sources.tables import read_table
from chexjax.errors import ConfigError, DataError, exit_with_message
from chexjax.evaluation import metrics
from chexjax.evaluation.predictions import PredictionFile, read_predictions
from chexjax.evaluation.tables import Table, as_markdown
from chexjax.findings import FILM, FINDINGS
from chexjax.formats import format_figure

_READ: Final = ("Pneumothorax", "Nodule or mass", "Airspace opacity", "Lung Opacity")
MEANS: Final = {name: evaluable(FINDINGS)[preferred_name(name)].outputs for name in _READ}
_WORDS: Final = {"YES": 1.0, "NO": 0.0, "1": 1.0, "0": 0.0}


def read_readers(path: Path) -> dict[str, dict[str, float]]:
    """What the readers say: finding -> film -> 1 or 0.

    Raises:
      DataError: the table is neither Google's nor the RSNA's, or a cell is neither yes nor no.
    """
    table = read_table(path, (FILM,), None)
    columns = {"Lung Opacity": "target"} if "target" in table else {name: name for name in MEANS if name in table}
    if not columns:
        raise DataError(f"{path} has no column of readers: {', '.join(MEANS)}, or target")
    found = {}
    for finding, column in columns.items():
        if unknown := {cell for cell in table[column] if cell.strip() not in _WORDS}:
            raise DataError(f"{path}, column {column}: {sorted(unknown)[0][:40]!r} is neither YES nor NO")
        found[finding] = {film: _WORDS[cell.strip()] for film, cell in zip(table[FILM], table[column], strict=True)}
    return found


def compare(
    truth: Mapping[str, float], finding: str, entries: Mapping[str, Entry], models: Mapping[str, PredictionFile]
) -> dict[str, Any]:
    """The labels and each model beside the readers, for one finding of theirs; films without an entry are left out."""
    films = [film for film in truth if film in entries]
    columns = [FINDINGS.index(name) for name in MEANS[finding]]
    readers = np.array([truth[film] for film in films])
    labels = np.array([entries[film].labels[columns].max() for film in films])
    patients = np.array([entries[film].patient for film in films])
    counts = metrics.confusion(readers, labels, 0.5)
    agreed = float((readers == labels).mean())
    chance = float(readers.mean() * labels.mean() + (1 - readers.mean()) * (1 - labels.mean()))
    result: dict[str, Any] = {
        "films": len(films), "readers": int(readers.sum()), "labels": int(labels.sum()),
        "sensitivity": counts.sensitivity, "specificity": counts.specificity, "precision": counts.precision,
        "kappa": (agreed - chance) / (1 - chance) if chance < 1 else float("nan"), "models": {},
    }  # fmt: skip
    for name, model in models.items():
        row_of = {film: row for row, film in enumerate(model.names)}
        here = np.array([k for k, film in enumerate(films) if film in row_of], int)
        if len(here) == 0:
            continue
        wanted = [model.findings.index(one) for one in MEANS[finding]]
        scores = model.probabilities[[row_of[films[k]] for k in here]][:, wanted].max(axis=1)
        seen, labelled, whose = readers[here], labels[here], patients[here]
        called = np.zeros(len(here))
        called[np.argsort(-scores, kind="stable")[: int(seen.sum())]] = 1
        apart = seen != labelled
        result["models"][name] = {
            "films": len(here),
            "apart": int(apart.sum()),
            "with_readers": float((called[apart] == seen[apart]).mean()) if apart.any() else float("nan"),
            **{
                against: [float(metrics.auroc(y, scores)), *map(float, metrics.delong_interval(y, scores, whose))]
                for against, y in (("readers", seen), ("labels", labelled))
            },
        }
    return result


def tables_of(results: Mapping[str, Mapping[str, Any]]) -> tuple[Table, Table]:
    """The labels beside the readers, and the models beside both."""
    labels, models = [], []
    for finding, found in results.items():
        figures = [format_figure(found[key], 3) for key in ("sensitivity", "specificity", "precision", "kappa")]
        labels.append([finding, *(f"{found[key]:,}" for key in ("films", "readers", "labels")), *figures])
        for name, model in found["models"].items():
            areas = [
                f"{format_figure(model[key][0], 3)} ({format_figure(model[key][1], 3)} to "
                f"{format_figure(model[key][2], 3)})"
                for key in ("readers", "labels")
            ]
            sides = [f"{model['apart']}", format_figure(model["with_readers"], 3)]
            models.append([finding, name, f"{model['films']:,}", *areas, *sides])
    heads = ["", "films", "readers: have it", "labels: have it", "sensitivity", "specificity", "PPV", "kappa"]
    others = ["", "model", "films", "AUROC, readers", "AUROC, labels", "films apart", "sides with readers"]
    return Table("The labels beside the readers", heads, labels), Table("The models beside both", others, models)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="the NIH's entry file")
    parser.add_argument("--readers", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("predictions", nargs="*", help="NAME=FILE.csv")
    options = parser.parse_args(argv)
    introduce("labels and models beside radiologists, on the same films")
    with exit_with_message():
        models = {}
        for text in options.predictions:
            name, _, file = text.partition("=")
            if not file:
                raise ConfigError(f"{text} is not NAME=FILE.csv")
            models[name] = read_predictions(Path(file), FINDINGS)
        entries = read_entry_file(options.labels)
        readers = read_readers(options.readers)
        results = {finding: compare(truth, finding, entries, models) for finding, truth in readers.items()}
        for table in tables_of(results):
            print(f"\n{table.title}\n\n{as_markdown(table)}")
        return finish(results, options.json)


if __name__ == "__main__":
    main()
