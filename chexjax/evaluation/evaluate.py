"""A run's best checkpoint on another data set; the command's help, in `chexjax.commands.evaluate`, says how."""

if __name__ == "__main__":
    from chexjax.commands.evaluate import main  # without the libraries below: --help needs none
    from chexjax.runtime import run

    run(main)

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from ml_collections import ConfigDict

from chexjax.data.labels import Uncertain, common_findings, evaluable, outputs_of
from chexjax.data.pipeline import evaluation_batches
from chexjax.data.prepared import Prepared, prepare_collection
from chexjax.data.recipe import cache_of, prepared_below, recipe_of
from chexjax.data.seen import find_seen, read_seen
from chexjax.data.sources.entries import LEFT_OUT
from chexjax.data.sources.gather import read_sources, takes_frontal
from chexjax.data.sources.merge import Collection, combine
from chexjax.data.sources.splits import divide
from chexjax.devices import replicate
from chexjax.errors import CheckpointError, ConfigError, DataError, first_ten, printable
from chexjax.evaluation.evaluator import Predictions, create_predictor, predict_split
from chexjax.evaluation.localization import evaluate_localization
from chexjax.evaluation.page import external_page
from chexjax.evaluation.report import write_run
from chexjax.evaluation.summary import Summary, summarize_external
from chexjax.files import folder_path, own_folder
from chexjax.runtime import progress_bar
from chexjax.workdir.config import CONFIG
from chexjax.workdir.restore import Restored, restore_best
from chexjax.workdir.thresholds import METRICS, validation_thresholds

PART: Final = "test"  # what the evaluated films are called in the prepared set, whatever the source calls them


def evaluate(checkpoint: Path, data: ConfigDict, out: Path, split: str = "all", progress: bool = True) -> Summary:
    """Evaluates the best checkpoint of a workdir on the films of `data`, and writes the report into `out`.

    Args:
      checkpoint: a run's workdir, or a folder of imported weights.
      data: `source`, `dir` and the rest, as `data_of` makes it.
      out: a folder of its own. What it holds of an earlier evaluation stays until all is computed.
      split: "all" films, or one of the source's own parts.

    Returns:
      What `metrics.json` holds.

    Raises:
      ConfigError: a field that cannot be used; `out` is a workdir.
      CheckpointError: see `restore_best`.
      DataError: the source and the run have no finding in common, all films are those that the run has learned from,
        or whatever is wrong with the source.
    """
    check_out(out)
    best = restore_best(checkpoint)
    films, rows, notes = choose_films(best, data, split)
    print(films.mapping)
    recipe = replace(
        recipe_of(best.config.data), split="official", lists="", val_fraction=0.1, split_seed=0,
        skip_unreadable=data.skip_unreadable,
    )  # fmt: skip
    prepared = prepare_collection(films, {PART: rows}, prepared_below(cache_of(data)), recipe, progress)
    predictions = predict_films(best, prepared, data.threads, progress)
    thresholds = {
        name: {finding: rules for finding, rules in own.items() if finding in films.findings}
        for name, own in validation_thresholds(best.workdir, best.step).items()
    }
    notes += list(films.notes)
    if not thresholds:
        notes.append(
            "no thresholds of the run's validation are known: they come with its own evaluation, "
            f"python -m chexjax.main --workdir={checkpoint} --mode=evaluate"
        )
    where = f"{data.source}, {split} films"
    found = summarize_external(predictions, thresholds, best.config, best.step, where, films.findings, notes)
    entries = [evaluable(best.findings)[finding] for finding in films.findings]
    found |= {
        "history": [],
        "evaluated_by": {entry.name: list(entry.outputs) for entry in entries if entry.origin},
        "checkpoint": printable(checkpoint),
        "source": data.source,
        "dir": printable(data.dir),
        "mapping": films.mapping.splitlines(),
    }
    source = prepared.source(PART)
    found["localization"], examples = evaluate_localization(best, source, predictions, films.findings)
    parts = {"evaluated": prepared.parts[PART]}
    page = external_page(found, best.config, parts, predictions, examples, films.findings, prepared.sources())
    write_into(out, lambda folder: write_run(folder, found, predictions, [], page, films.findings))
    return found


def data_of(source: str, folder: str, **fields: Any) -> ConfigDict:
    """The fields of `config.data` that say which films are evaluated; `fields` are those that are not the default."""
    config = ConfigDict(
        {
            "source": source,
            "dir": folder,
            "sources": "",
            "table": "",
            "lists": "",
            "uncertain": "",
            "films": "frontal",
            "split": "random",
            "val_fraction": 0.1,
            "split_seed": 0,
            "cache": "",
            "skip_unreadable": False,
            "threads": 2,
        }
    )
    config.update(fields)
    return config


def choose_films(best: Restored, data: ConfigDict, split: str) -> tuple[Collection, list[int], list[str]]:
    """The films of `data` by the findings that the run has too, the rows to evaluate, and notes for the reader.

    Raises:
      ConfigError, DataError: as for `evaluate`.
    """
    data = data.copy_and_resolve_references()
    # The own division of a source is read where a part of it is asked for; lists of a whole set may name films that
    # are not here.
    data.split = "random" if split == "all" else "official"
    sources = read_sources(data, tuple(evaluable(best.findings)))
    has = [name for entries in sources.values() for name in entries.findings]
    common = common_findings(has, best.findings)
    if not common:
        raise DataError(
            f"{data.sources or data.source} labels none of the findings that the run predicts, "
            f"{first_ten(best.findings)}; it labels {first_ten(has)}"
        )
    policy = data.uncertain or best.config.data.get("uncertain", "")
    try:
        films = combine(sources, tuple(common), Uncertain.parse(policy), takes_frontal(data))
    except DataError as error:
        raise DataError(str(error).replace("--config.data.uncertain", "--uncertain")) from None
    if split == "all":
        rows = [row for row, part in enumerate(films.splits) if part != LEFT_OUT]
    else:
        lists = Path(data.lists).expanduser() if data.lists else None
        rows = divide(films, "official", lists, needed=(split,))[split]
    seen = read_seen(best.workdir, best.config.data, best.metadata.get("data", ""))
    own = [name for name, entry in common.items() if not entry.origin]
    notes = [f"{len(own)} of the run's {len(best.findings)} findings are labelled here: {', '.join(own)}".rstrip(": ")]
    notes += [str(entry) for entry in common.values() if entry.origin]
    if seen is None:
        notes.append("which films the run has learned from is not known here, so some of these may be among them")
        return films, rows, notes
    learned, seen_notes = find_seen(films, rows, seen)
    rows = sorted(set(rows) - set(learned))
    if not rows:
        raise DataError(f"{data.dir or data.sources} has no film for a test: {seen_notes[0]}")
    return films, rows, notes + seen_notes


def predict_films(best: Restored, films: Prepared, threads: int, progress: bool = True) -> Predictions:
    """The networks' predictions for the findings of `films`, each a key of `labels.evaluable(outputs)`.

    Raises:
      CheckpointError: a prediction is not finite.
    """
    networks = {name: model.apply for name, model in best.models.items()}
    columns = outputs_of(films.findings, best.findings)
    data = best.config.data
    predictor = create_predictor(networks, data.mean, data.std, best.config.get("views", "one"))
    batches = evaluation_batches(films.source(PART), best.config.batch_size, threads)
    with progress_bar(len(films.parts[PART].names), "evaluating", shown=progress, kept=False) as bar:
        variables, part = replicate(best.variables), films.parts[PART]
        predictions = predict_split(predictor, variables, batches, part, bar.update, columns)
    broken = [name for name, values in predictions.probabilities.items() if not np.isfinite(values).all()]
    if broken:
        raise CheckpointError(
            f"{best.workdir}: the predictions of {', '.join(broken)} are not finite: training diverged"
        )
    return predictions


def check_out(out: Path) -> None:
    """Refuses a folder in which the report would take another's place.

    Raises:
      ConfigError: `out` is a file, is called like one, or holds a run.
    """
    if (out / CONFIG).exists():
        raise ConfigError(f"--out={printable(out)} holds a run; choose a folder of its own")
    folder_path(out, "--out")


def write_into(out: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a new folder, then moves its files into `out`, `metrics.json` last; an earlier report's go.

    Raises:
      DataError: the disk does not take them.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        work = own_folder(out, "writing")
        try:
            write(work)
            (out / METRICS).unlink(missing_ok=True)
            for old in (*out.glob("predictions_*.csv"), out / "report.html"):
                old.unlink(missing_ok=True)
            for path in sorted(work.iterdir(), key=lambda path: path.name == METRICS):
                os.replace(path, out / path.name)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise DataError(f"the report cannot be written to {printable(out)}: {error.strerror}") from None
