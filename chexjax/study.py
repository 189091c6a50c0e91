"""A study: many kinds of run, several seeds each, in one table; `chexjax.commands.study` is its command."""

if __name__ == "__main__":
    from chexjax.commands.study import main  # without the libraries below: --help needs none

    main()
    raise SystemExit

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from chexjax.configs.study import get_config
from chexjax.data.films import open_films
from chexjax.errors import ChexjaxError, ConfigError, DataError
from chexjax.evaluation.metrics import compare_runs
from chexjax.evaluation.predictions import PredictionFile, read_predictions
from chexjax.evaluation.published import published
from chexjax.evaluation.summary import number, numbers
from chexjax.evaluation.tables import Table, as_markdown
from chexjax.files import write_whole
from chexjax.formats import UNDEFINED, format_difference, format_figure, format_p_value

# What each cell has for itself, and where.
OF_CELLS: Final = {
    "every.seed": "seeds",
    "every.regime": "cells.NAME.regime",
    "network.model": "cells.NAME.models",
    "network.seed": "seeds",
    "network.shared_stages": "cells.NAME.shared_stages",
}
Results = dict[str, Any]  # what `metrics.json` holds
Comparison = dict[tuple[str, str], dict[str, Any]]  # by cell and network: see `compare`


def chosen(study: ConfigDict) -> list[str]:
    """The cells to run, a teacher before its student.

    Raises:
      ConfigError: no study, no such cell, or a cell's teacher is not among them.
    """
    try:
        cells, only = study.cells, study.only.split(",") if study.only else list(study.cells)
    except AttributeError:
        raise ConfigError("--config holds no study; use --config=configs/study.py") from None
    if unknown := [name for name in only if name not in cells]:
        raise ConfigError(f"config.only names {', '.join(unknown)}; there are {', '.join(cells)}")
    order: list[str] = []
    for name in sorted(only, key=lambda name: bool(cells[name].teacher)):  # stable: students last, else as given
        if cells[name].teacher and cells[name].teacher not in only:
            raise ConfigError(f"{name} learns from {cells[name].teacher}; add that to config.only")
        order.append(name)
    return order


def compose(study: ConfigDict, name: str, seed: int, out: Path) -> ConfigDict:
    """The config of one run: what every run shares, and the cell's own.

    Raises:
      ConfigError: a field is set for all runs that each cell has for itself.
    """
    cell = study.cells[name]
    fields, usual = flatten_dict(study.to_dict(), sep="."), flatten_dict(get_config().to_dict(), sep=".")
    own = OF_CELLS | ({"every.teacher": f"cells.{name}.teacher"} if cell.teacher else {})
    for field, place in own.items():
        if fields[field] != usual[field]:
            raise ConfigError(f"config.{field}={fields[field]!r} changes nothing: config.{place} counts")
    config = ConfigDict(study.every.to_dict())
    config.seed, config.regime = seed, cell.regime
    config.data.clean = study.every.data.clean or cell.clean
    if cell.teacher:
        config.teacher = str(out / cell.teacher / f"seed-{seed}")
    for k, model in enumerate(cell.models, start=1):
        network = ConfigDict(study.network.to_dict())
        network.model, network.seed = model, k
        with network.ignore_type():
            network.shared_stages = cell.shared_stages
        config.networks[f"net{k}"] = network
    return config


def run(study: ConfigDict, name: str, seed: int, out: Path) -> Results:
    """Trains and evaluates one run, or reads what it found before.

    Raises:
      ChexjaxError: what goes wrong in the run, its cell named.
    """
    from chexjax.training import loop
    from chexjax.workdir.config import check_config

    config, workdir = compose(study, name, seed, out), out / name / f"seed-{seed}"
    metrics = workdir / "metrics.json"
    try:
        if metrics.exists():
            check_config(workdir, config)
        if not is_finished(workdir, config):
            loop.train(config, workdir)
            loop.evaluate(config, workdir)
            jax.clear_caches()  # the next cell's networks are others; a long study would fill the memory
    except ChexjaxError as error:
        raise type(error)(f"{name}, seed {seed}: {error}") from error
    return json.loads(metrics.read_text())


def is_finished(workdir: Path, config: ConfigDict) -> bool:
    """Whether a run of this config has been trained as long, and evaluated in these views of the films."""
    from chexjax.workdir.config import LENGTH, read_config

    try:
        found = json.loads((workdir / "metrics.json").read_text())
    except FileNotFoundError:
        return False
    trained = read_config(workdir)
    return found.get("views", "one") == config.views and all(trained.get(name) == config.get(name) for name in LENGTH)


def rows(study: ConfigDict, found: dict[str, list[Results]]) -> list[dict[str, Any]]:
    """A row for each network of each cell (and for the mean of several): figures over seeds, and the report's."""
    columns = published()["report"]["columns"]
    table = []
    for name, runs in found.items():
        for k, network in enumerate(runs[0]["networks"] if runs else ()):
            each = [one["networks"][network] for one in runs]
            beside = columns[study.cells[name].report[k]] if k < len(study.cells[name].report) else {}
            table.append(
                {
                    "cell": name,
                    "network": network,
                    "model": each[0]["model"],
                    "seeds": len(each),
                    "mean_auroc": mean_and_std([one["mean_auroc"] for one in each]),
                    "auroc": {
                        finding: mean_and_std([one["auroc"][finding] for one in each]) for finding in each[0]["auroc"]
                    },
                    "convergence_epoch": mean_and_std([one.get("convergence_epoch") for one in each]),
                    "report": {key: beside.get(key) for key in ("mean", "auroc", "convergence_epoch", "epochs")},
                }
            )
    return table


def mean_and_std(figures: list[float | None]) -> dict[str, Any]:
    """Mean and standard deviation (of the sample; None of a single figure) of the figures that there are."""
    present = [figure for figure in figures if figure is not None]
    return {
        "each": figures,
        "mean": statistics.fmean(present) if present else None,
        "sd": statistics.stdev(present) if len(present) > 1 else None,
    }


def format_table(study: ConfigDict, found: dict[str, list[Results]]) -> str:
    """Markdown: the table of means, then the findings."""
    table = rows(study, found)
    if not table:
        return "no run has ended yet"
    test = next(runs[0] for runs in found.values() if runs)
    note = (
        f"Test split {test['split_source']!r} of {study.every.data.source}, {test['films']} films; mean (standard "
        f"deviation) over seeds, {study.every.epochs:g} epochs at most. The report's figures are on ChestX-ray14, on a "
        "split that it does not state, and do not compare."
    )
    heads = ["cell", "network", "model", "seeds", "mean AUROC", "converged at epoch"]
    heads += ["report: mean AUROC", "report: epoch"]
    cells = [
        [
            row["cell"],
            row["network"],
            row["model"],
            str(row["seeds"]),
            _mean_and_std(row["mean_auroc"]),
            _mean_and_std(row["convergence_epoch"], 1),
            format_figure(row["report"]["mean"]),
            format_figure(row["report"]["convergence_epoch"], 0),
        ]
        for row in table
    ]
    networks = [row["cell"] if row["network"] == "net1" else f"{row['cell']}, {row['network']}" for row in table]
    figures = [[finding, *(_beside(row, finding) for row in table)] for finding in table[0]["auroc"]]
    means, per_finding = Table("", heads, cells), Table("", ["finding", *networks], figures)
    tables = as_markdown(means), as_markdown(per_finding)
    return "\n\n".join([note, *tables, "After a slash: the report's figure."])


def compare(study: ConfigDict, found: dict[str, list[Results]], out: Path) -> Comparison:
    """Each network of the later cells against the first cell's: seed by seed, on the same films.

    Returns:
      By (cell, network): `seeds`; `difference`, `interval` and `p_value` of the mean AUROC (`metrics.compare_runs`);
      `epochs`, how much later each seed converged, None where one of the two did not.

    Raises:
      ChexjaxError: a run's predictions are not there, or are not of the split's films.
    """
    cells = [name for name, runs in found.items() if runs]
    compared: Comparison = {}
    if len(cells) < 2:
        return compared
    first = cells[0]
    part = open_films(compose(study, first, 1, out).data).parts["test"]
    findings = list(found[first][0]["networks"]["net1"]["auroc"])

    def scores(cell: str, network: str, seeds: int) -> np.ndarray:
        paths = [out / cell / f"seed-{seed}" / f"predictions_{network}.csv" for seed in range(1, seeds + 1)]
        return np.stack([_in_order(read_predictions(path, findings), part.names, findings) for path in paths])

    reference, before = scores(first, "net1", len(found[first])), _convergence(found[first], "net1")
    for cell in cells[1:]:
        seeds = min(len(found[first]), len(found[cell]))
        for network in found[cell][0]["networks"]:
            test = compare_runs(part.labels, scores(cell, network, seeds), reference[:seeds], part.patients)
            after = _convergence(found[cell], network)
            compared[cell, network] = {
                "against": first,
                "seeds": seeds,
                "difference": number(test.difference),
                "interval": numbers([test.low, test.high]),
                "p_value": number(test.p_value),
                "epochs": [
                    None if one is None or other is None else round(other - one, 2)
                    for one, other in zip(before[:seeds], after[:seeds], strict=True)
                ],
            }
    return compared


def _convergence(runs: list[Results], network: str) -> list[float | None]:
    """The epoch at which the network converged, by run; None where it did not, and for a mean of networks."""
    return [run["networks"][network].get("convergence_epoch") for run in runs]


def _in_order(table: PredictionFile, names: Sequence[str], findings: Sequence[str]) -> np.ndarray:
    """The probabilities of the split's films.

    Raises:
      DataError: the file is of other films or findings.
    """
    if set(table.names) != set(names) or list(table.findings) != list(findings):
        raise DataError(
            f"{table.path} is not of the test films of this study; was the data changed since it was written?"
        )
    return table.rows(names, findings)


def format_comparison(compared: Comparison) -> str:
    """Markdown: the differences from the first cell; empty where there is but one."""
    if not compared:
        return ""
    against = next(iter(compared.values()))["against"]
    lines = []
    for (cell, network), each in compared.items():
        epochs = ", ".join(UNDEFINED if later is None else f"{later:+.1f}" for later in each["epochs"])
        difference = format_difference(each["difference"], each["interval"])
        lines.append([cell, network, str(each["seeds"]), difference, format_p_value(each["p_value"]), epochs])
    heads = ["cell", "network", "seeds", "difference in mean AUROC (95 %)", "p", "epochs later, by seed"]
    note = (
        f"Against {against}, paired by seed and by film. The intervals hold for other seeds and other patients; "
        "none is corrected for their number."
    )
    return "\n\n".join([note, as_markdown(Table("", heads, lines))])


def write(out: Path, study: ConfigDict, found: dict[str, list[Results]], compared: Comparison | None = None) -> None:
    """`study.json` and `study.md`, each in one move; `compared` is what `compare` returned."""
    if jax.process_index() != 0:
        return
    compared = compared or {}
    table = [{**row, "against_first": compared.get((row["cell"], row["network"]))} for row in rows(study, found)]
    text = "\n\n".join(filter(None, [format_table(study, found), format_comparison(compared)]))
    for name, content in {"study.json": json.dumps(table, indent=1), "study.md": text + "\n"}.items():
        write_whole(out / name, content)


def _beside(row: dict[str, Any], finding: str) -> str:
    """A finding's AUROC and, where the report has one, the report's."""
    reported = (row["report"]["auroc"] or {}).get(finding)
    return _mean_and_std(row["auroc"][finding], 3) + ("" if reported is None else f" / {format_figure(reported, 3)}")


def _mean_and_std(figures: dict[str, Any], digits: int = 4) -> str:
    std = "" if figures["sd"] is None else f" ({figures['sd']:.{digits}f})"
    return format_figure(figures["mean"], digits) + std
