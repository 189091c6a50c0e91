"""The tables of an evaluation: their content, and their form on a terminal, in Markdown and as CSV.

Pages show the same tables (`chexjax/templates/macros.html`).
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chexjax import files
from chexjax.errors import printable
from chexjax.evaluation.published import published
from chexjax.evaluation.summary import Summary
from chexjax.formats import (
    UNDEFINED,
    format_count,
    format_difference,
    format_figure,
    format_interval,
    format_p_value,
    format_threshold,
)
from chexjax.models.network import ENSEMBLE

WIDTH: Final = 120  # characters of a terminal
CALIBRATION: Final = {"average_precision": "AP", "brier": "Brier", "expected_calibration_error": "ECE"}
# Titles of thresholds; the others are "sensitivity 90 %".
RULES: Final = {"youden": "Youden's point", "prevalence": "prevalence"}
KINDS: Final = {"iou": "IoU", "iobb": "IoBB"}
OVERLAPS: Final = ("0.1", "0.3", "0.5", "0.7")  # of `localization.THRESHOLDS`
_COUNTS: Final = {"true_positives": "TP", "false_positives": "FP", "false_negatives": "FN", "true_negatives": "TN"}
_SHARES: Final = ("sensitivity", "specificity", "precision")


@dataclass(frozen=True)
class Table:
    """Cells of text. The first `lead` rows are set apart; `words`: cells hold text, not numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    lead: int = 0
    words: bool = False


# Forms of a table


def as_text(table: Table) -> str:
    """For a terminal: the first column left-aligned, the others right-aligned."""
    lines = [[printable(cell) for cell in line] for line in (table.heads, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [printable(table.title)] if table.title else []
    for first, *rest in lines:
        cells = [f"{first:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def as_markdown(table: Table) -> str:
    """A GitHub table, without its title."""
    lines = (table.heads, ["---"] * len(table.heads), *table.rows)
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |" for cells in lines)


def write_csv(path: Path, tables: Sequence[Table]) -> None:
    """All tables in one file, each under its title and above an empty line; no cell is a formula to a spreadsheet."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for table in tables:
            for line in ([table.title], table.heads, *table.rows, []):
                writer.writerow([files.cell(cell) for cell in line])


# Contents


def auroc_table(found: Summary, findings: Sequence[str], intervals: bool = True) -> Table:
    """The AUROCs of a run: the mean, then the findings, then the epoch of convergence; one column per network."""
    networks = found["networks"].values()

    def cell(entry: Summary, key: str, finding: str | None = None) -> str:
        figure, interval = (
            entry[name] if finding is None else entry[name][finding] for name in (key, f"{key}_interval")
        )
        return format_figure(figure, interval=interval if intervals else None)

    rows = [["mean AUROC", "", *(cell(entry, "mean_auroc") for entry in networks)]]
    for finding in findings:
        cells = [cell(entry, "auroc", finding) for entry in networks]
        outputs = found.get("evaluated_by", {}).get(finding)
        name = f"{finding} (highest of {', '.join(outputs)})" if outputs else finding
        rows.append([name, positives_of(found, finding), *cells])
    if any("convergence_epoch" in entry for entry in networks):
        rows.append(["converged at epoch", "", *map(_epoch, networks)])
    heads = ["", "positive", *(f"{name} ({entry['model']})" for name, entry in found["networks"].items())]
    title = f"{found['split']}: {found['films']:,} films, checkpoint of step {found['step']}"
    return Table(title, heads, rows, lead=1)


def positives_of(found: Summary, finding: str) -> str:
    """The number of positive films as a cell (see `format_count`); `found` has "films", "known", "positives"."""
    return format_count(found["positives"][finding], found["known"][finding], found["films"])


def _epoch(entry: Summary) -> str:
    """The epoch of convergence; an ensemble has none."""
    if "convergence_epoch" not in entry:
        return ""
    epoch = entry["convergence_epoch"]
    return UNDEFINED if epoch is None else f"{epoch:g}"


def auroc_text(found: Summary, findings: Sequence[str]) -> str:
    """`auroc_table` and the notes for a terminal; with intervals where they fit."""
    tables = [as_text(auroc_table(found, findings, intervals)) for intervals in (True, False)]
    fitting = (text for text in tables if max(map(len, text.splitlines())) <= WIDTH)
    return "\n".join([next(fitting, tables[-1]), *found["notes"]])


def calibration_table(found: Summary, findings: Sequence[str]) -> Table:
    """Average precision, Brier score and calibration error of every network."""
    heads = ["", *(f"{figure} ({name})" for name in found["networks"] for figure in CALIBRATION.values())]
    rows = [
        [finding, *(format_figure(entry[key][finding]) for entry in found["networks"].values() for key in CALIBRATION)]
        for finding in findings
    ]
    return Table("Average precision and calibration", heads, rows)


def fitted_calibration_table(found: Summary, network: str, findings: Sequence[str]) -> Table:
    """Per finding the kind of curve that was fitted, and figures before and after it, of one network."""
    fitted = found["trust"]["calibration"][network]
    words = {"log_loss": "log loss", "expected_calibration_error": "ECE", "brier": "Brier"}
    rows = []
    for finding in findings:
        figures = (format_figure(side) for key in words for side in fitted[finding][key])
        rows.append([finding, fitted[finding]["kind"], *figures])
    heads = [f"{word}, {side}" for word in words.values() for side in ("before", "after")]
    return Table("Fitted calibration", ["", "curve", *heads], rows)


def abstaining_table(found: Summary, network: str, findings: Sequence[str]) -> Table:
    """Per finding the band in which nothing is decided, and how that went, of one network."""
    bands = found["trust"]["abstaining"]["networks"][network]
    rows = []
    for finding in findings:
        ends = [format_figure(bands[finding][end]) for end in ("low", "high")]
        shares = [format_figure(bands[finding][share], 3) for share in ("decided", "missed", "false_alarms")]
        rows.append([finding, *ends, *shares])
    return Table("Abstaining", ["", "band from", "to", "decided", "missed", "false alarms"], rows)


def gate_table(found: Summary) -> Table:
    """The share of films that each network's gate holds up, as they are and turned, mirrored or inverted."""
    gate = found["trust"]["gate"]
    poses = next(iter(gate.values()))["poses"]
    rows = [["as they are", *(format_figure(entry["held_up"], 3) for entry in gate.values())]]
    for pose in poses:
        shares = [entry["poses"][pose] for entry in gate.values()]
        cells = [f"{format_figure(share['held_up'], 3)} ({format_figure(share['named'], 3)})" for share in shares]
        rows.append([pose, *cells])
    heads = ["", *(f"{name} ({entry['films']:,} films)" for name, entry in gate.items())]
    return Table("Films that the gate holds up", heads, rows, lead=1)


def published_table(found: Summary, here: str, findings: Sequence[str]) -> Table:
    """A run beside the columns of the report that chexjax re-implements; `here` describes the run's films."""
    own, report = found["networks"], published()["report"]
    columns = report["columns"].values()
    heads = [
        "",
        *(f"{name}, here ({here})" for name in own),
        *(f"{name} (split: {report['split']})" for name in report["columns"]),
    ]
    means = [entry["mean_auroc"] for entry in own.values()] + [column["mean"] for column in columns]
    rows = [["mean AUROC", *map(format_figure, means)]]
    for finding in findings:
        figures = [entry["auroc"][finding] for entry in (*own.values(), *columns)]
        rows.append([finding, *map(format_figure, figures)])
    rows.append(["converged at epoch", *map(_epoch, (*own.values(), *columns))])
    return Table("", heads, rows, lead=1)


def published_means_table() -> Table:
    """Mean AUROCs that others report: a column a split, since figures on different splits do not compare."""
    splits = {"OFF": "official test list (OFF)", "RND": "random patients (RND)"}
    rows = [
        [row["who"], *(row["mean"] if row["split"] == split else "" for split in splits)]
        for row in published()["others"]
    ]
    return Table("Mean AUROCs that others report", ["who", *splits.values()], rows)


def films_table(parts: Mapping[str, Any], findings: Sequence[str]) -> Table:
    """What each part of a split holds; `parts` are `prepared.Part`s."""
    rows = [
        ["films", *(f"{len(part.names):,}" for part in parts.values())],
        ["patients", *(f"{len(set(part.patients)):,}" for part in parts.values())],
        ["without a finding", *(f"{part.healthy:,}" for part in parts.values())],
    ]
    for k, finding in enumerate(findings):
        cells = (format_count(part.positives[k], part.known[k], len(part.names)) for part in parts.values())
        rows.append([finding, *cells])
    return Table("", ["", *parts], rows, lead=3)


def sources_table(counts: Mapping[str, Any], findings: Sequence[str]) -> Table | None:
    """The counts of each source, from `Prepared.sources()`; None for one folder in the NIH's layout."""
    if not counts:
        return None
    rows = [[word, *(f"{getattr(count, word):,}" for count in counts.values())] for word in ("films", "patients")]
    for k, finding in enumerate(findings):
        cells = (format_count(count.positives[k], count.known[k], count.films) for count in counts.values())
        rows.append([finding, *cells])
    return Table("", ["", *counts], rows, lead=2)


def confusion_table(name: str, entry: Summary, findings: Sequence[str]) -> Table:
    """Counts and shares of one model at each threshold from validation and, of other films, at their prevalence."""
    rows = []
    kinds = [kind for kind in (entry, entry.get("at_prevalence", {})) if "thresholds" in kind]
    for finding in findings:
        ruled = [(kind, rule, at) for kind in kinds for rule, at in kind["at_thresholds"].get(finding, {}).items()]
        for kind, rule, at in ruled:
            threshold = format_threshold(kind["thresholds"][finding][rule], digits=4)
            counts = [UNDEFINED if at is None else f"{at[key]:,}" for key in _COUNTS]
            shares = [format_figure(at and at[key], 3) for key in _SHARES]
            rows.append([finding, RULES.get(rule, f"{rule.replace('_', ' ')} %"), threshold, *counts, *shares])
    heads = ["finding", "threshold by", "at", *_COUNTS.values(), *_SHARES]
    words = ["thresholds from validation"] * ("thresholds" in entry)
    words += ["the prevalence of these films"] * ("at_prevalence" in entry)
    return Table(f"{name} at {' and at '.join(words)}", heads, rows)


def localization_tables(found: Summary) -> tuple[Table, Table]:
    """Hit rates over all cases and per finding; `found` is the result of `localization.localize`."""
    heads = ["cases", "maps of", "pointing game", *(f"{word} {t}" for word in KINDS.values() for t in OVERLAPS)]

    def rows(group: str) -> Iterator[list[str]]:
        for k, (name, source) in enumerate(found["groups"][group]["sources"].items()):
            hits = [format_figure(source[kind][t], 3) for kind in KINDS for t in OVERLAPS]
            low, high = source["pointing_interval"]
            pointing = f"{format_figure(source['pointing'], 3)} ({low:.2f}-{high:.2f})"
            cases = f"{group}: {found['groups'][group]['cases']:,}" if not k else ""
            yield [cases, name, pointing, *hits]

    findings = [group for group in found["groups"] if group != "all"]
    return (
        Table("All cases", heads, list(rows("all"))),
        Table("Per finding", heads, [row for finding in findings for row in rows(finding)]),
    )


def published_localization_table() -> Table:
    """What others report on the NIH's boxes."""
    rows = []
    for row in published()["localization"]:
        hits = [f"{word} {t}: {format_figure(hit, 3)}" for kind, word in KINDS.items() for t, hit in row[kind].items()]
        pointing = [] if row["pointing"] is None else [f"pointing game: {format_figure(row['pointing'], 3)}"]
        rows.append([row["who"], ", ".join(pointing + hits)])
    return Table("Published, on the NIH boxes", ["who", "share of boxes hit"], rows, words=True)


def score_tables(found: Summary, findings: Sequence[str]) -> list[Table]:
    """All tables of a score: one per model, thresholds, the comparison, subgroups."""
    networks = found["networks"]
    tables = [_model_table(name, entry, found, findings) for name, entry in networks.items()]
    tables += [confusion_table(name, entry, findings) for name, entry in networks.items() if "thresholds" in entry]
    if "comparison" in found:
        tables.append(_comparison_table(found["comparison"], findings))
    for kind, groups in found.get("subgroups", {}).items():
        tables += [_subgroup_table(kind, name, groups, findings) for name in networks]
    return tables


def _model_table(name: str, entry: Summary, found: Summary, findings: Sequence[str]) -> Table:
    mean = format_figure(entry["mean_auroc"], interval=entry["mean_auroc_interval"])
    rows = [["mean", "", "", mean, "", format_figure(entry["mean_average_precision"]), "", ""]]
    for finding in findings:
        auroc = format_figure(entry["auroc"][finding], interval=entry["auroc_interval"][finding])
        delong = format_interval(entry["auroc_interval_delong"][finding])
        rest = [format_figure(entry[key][finding]) for key in CALIBRATION]
        counts = [f"{found[what][finding]:,}" for what in ("known", "positives")]
        rows.append([finding, *counts, auroc, delong, *rest])
    heads = ["", "known", "positive", "AUROC (95 %)", "DeLong 95 %", *CALIBRATION.values()]
    return Table(name, heads, rows, lead=1)


def _comparison_table(compared: Summary, findings: Sequence[str]) -> Table:
    heads = ["", "difference (95 %)", "z", "p", "p (Holm)", "p by patient", "p by patient (Holm)"]
    mean = format_difference(compared["mean_difference"], compared["mean_difference_interval"])
    rows = [["mean", mean, *[""] * 5]]
    keys = ("p_value", "p_value_holm", "p_value_by_patient", "p_value_by_patient_holm")
    for finding in findings:
        at = compared["findings"][finding]
        difference = format_difference(at["difference"], at["interval"])
        rows.append([finding, difference, format_figure(at["z"], 2), *(format_p_value(at[key]) for key in keys)])
    title = f"{compared['first']} less {compared['second']}, DeLong's paired test"
    return Table(title, heads, rows, lead=1)


def _subgroup_table(kind: str, model: str, groups: Mapping[str, Summary], findings: Sequence[str]) -> Table:
    rows = [[what, *(f"{at[what]:,}" for at in groups.values())] for what in ("films", "patients")]
    entries = {name: at["networks"][model] for name, at in groups.items()}
    means = [format_figure(entry["mean_auroc"], interval=entry["mean_auroc_interval"]) for entry in entries.values()]
    rows.append(["mean AUROC", *means])
    for finding in findings:
        cells = [
            format_figure(entry["auroc"][finding], interval=entry["auroc_interval"][finding])
            + f" {_with_plus(groups[name], finding)}"
            for name, entry in entries.items()
        ]
        rows.append([finding, *cells])
    return Table(f"{model} by {kind}; 12+ are 12 positive films", ["", *groups], rows, lead=3)


def _with_plus(group: Summary, finding: str) -> str:
    """`12+`, or `12+ of 300` if the finding is known only for that many films."""
    known, positives = (group[what][finding] for what in ("known", "positives"))
    return f"{positives:,}+" + ("" if known == group["films"] else f" of {known:,}")


def format_epoch(entry: Mapping[str, float], epochs: float, names: Sequence[str]) -> str:
    """One line per validation: the epoch, and loss and mean AUROC of each network."""
    networks = [
        f"{name} {'' if name == ENSEMBLE else format(entry[f'val/{name}/loss'], '.4f') + ' '}"
        f"AUROC {format_figure(entry[f'val/{name}/auroc'])}"
        for name in names
    ]
    return f"epoch {entry['epoch']:.4g}/{epochs:.4g}, validation loss and mean: " + ", ".join(networks)
