"""Scores any model's predictions CSV against a table of labels: figures with intervals, and two models side by side.

    python -m chexjax.evaluation.score --predictions=A.csv --labels=Data_Entry_2017_v2020.csv [--out=DIR]
        [--against=B.csv] [--by=sex,age,view] [--thresholds_from=VAL.csv]

For what the two tables look like see `read_predictions` and `read_labels` in `chexjax.evaluation.predictions`. Labels
that are not known, uncertain or soft are left out, finding by finding; how many were left stands beside each figure.
"""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from absl import flags

from chexjax import files
from chexjax.data.sources.nih import Entry
from chexjax.errors import ConfigError, DataError, command, first_ten, printable
from chexjax.evaluation import metrics, page
from chexjax.evaluation.figures import (
    INTERVALS,
    RESAMPLES,
    SENSITIVITY,
    Figures,
    Thresholds,
    counts,
    figures,
    find_thresholds,
    number,
    numbers,
    told,
    undefined,
)
from chexjax.evaluation.predictions import Matched, Table, match, read_labels, read_predictions, short
from chexjax.runtime import parse

GROUPINGS: Final = ("sex", "age", "view")
MOST_GROUPS: Final = 12


def thresholds_from(
    table: Table, entries: dict[str, Entry], films: Matched, sensitivity: float = SENSITIVITY
) -> tuple[Thresholds, list[str]]:
    """Thresholds out of validation predictions of the first model, and what is to be said of them.

    Raises:
      DataError: its films have no labels, or some of them are among those that are scored.
    """
    validation, notes = match(entries, [table])
    both = sorted(set(validation.names) & set(films.names))
    if both:
        raise DataError(
            f"{table.path}: thresholds must come from other films than are scored; in both, {first_ten(both)}"
        )
    patients = set(validation.patients) & set(films.patients)
    if patients:
        notes.append(f"thresholds come from films of {len(patients):,} patients who are also scored")
    (probabilities,) = validation.models.values()
    return find_thresholds(validation.labels, probabilities, validation.findings, sensitivity), notes


# Figures


def score(films: Matched, thresholds: Thresholds | None = None, by: Sequence[str] = ()) -> dict[str, Any]:
    """All figures of the matched films, as `metrics.json` holds them; see `figures.figures` for a model's."""
    first = next(iter(films.models))
    found: dict[str, Any] = {
        "films": len(films.names),
        "patients": len(set(films.patients)),
        **counts(films.labels, films.findings),
        "networks": {
            name: figures(
                films.labels,
                p,
                films.patients,
                films.findings,
                thresholds if name == first else None,
                calibration=name not in films.ranked_only,
            )
            for name, p in films.models.items()
        },
    }
    if len(films.models) == 2:
        found["comparison"] = compare(films)
    if by:
        found["subgroups"] = {kind: _subgroups(films, kind) for kind in by}
    return found


def compare(films: Matched) -> Figures:
    """The first model less the second: DeLong's paired test per finding, with Holm's correction, and the mean's.

    Both with films taken as independent (DeLong's own) and with a patient's films taken together (Obuchowski's).
    """
    (first, a), (second, b) = films.models.items()
    alone, together = (metrics.delong_test(films.labels, a, b, patients) for patients in (None, films.patients))
    corrected = {key: metrics.holm(test.p_value) for key, test in (("alone", alone), ("together", together))}
    told_of = np.isfinite(alone.difference)
    samples = [
        np.array([metrics.mean_over_findings(row) for row in areas[:, told_of]])
        for areas in (metrics.bootstrap_aurocs(films.labels, p, films.patients, RESAMPLES) for p in (a, b))
    ]
    return {
        "first": first,
        "second": second,
        "mean_difference": number(metrics.mean_over_findings(alone.difference)),
        "mean_difference_interval": numbers(metrics.percentile_interval(samples[0] - samples[1])),
        "findings": {
            finding: {
                "difference": number(alone.difference[k]),
                "interval": numbers([alone.low[k], alone.high[k]]),
                "z": number(alone.z[k]),
                "p_value": number(alone.p_value[k]),
                "p_value_holm": number(corrected["alone"][k]),
                "interval_by_patient": numbers([together.low[k], together.high[k]]),
                "z_by_patient": number(together.z[k]),
                "p_value_by_patient": number(together.p_value[k]),
                "p_value_by_patient_holm": number(corrected["together"][k]),
            }
            for k, finding in enumerate(films.findings)
        },
    }


def _subgroups(films: Matched, kind: str) -> dict[str, Any]:
    """The figures of each group of films; the first model's and, with two, the second's."""
    groups: dict[str, list[int]] = {}
    for k, entry in enumerate(films.entries):
        groups.setdefault(group(entry, kind), []).append(k)
    if len(groups) > MOST_GROUPS:
        raise DataError(
            f"--by={kind} makes {len(groups)} groups, {first_ten([short(name) for name in sorted(groups)])}"
        )
    patients = np.array(films.patients)
    return {
        name: {
            "films": len(rows),
            "patients": len(set(patients[rows])),
            **counts(films.labels[rows], films.findings),
            "networks": {
                model: figures(
                    films.labels[rows],
                    p[rows],
                    patients[rows].tolist(),
                    films.findings,
                    calibration=model not in films.ranked_only,
                )
                for model, p in films.models.items()
            },
        }
        for name, rows in sorted(groups.items())
    }


def group(entry: Entry, kind: str) -> str:
    """To which group of `kind` a film belongs; ages in steps of twenty years."""
    if kind == "age":
        low = min(entry.age // 20 * 20, 80)
        return "unknown" if entry.age < 0 else "80 and above" if low == 80 else f"{low:02d}-{low + 19}"
    return getattr(entry, kind) or "unknown"


# Telling


def tables(found: dict[str, Any], findings: Sequence[str]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """The tables of a score: title, heads, rows; the first rows are of the means."""
    known, positives = found["known"], found["positives"]
    for name, entry in found["networks"].items():
        mean = [
            "",
            told(entry["mean_auroc"], entry["mean_auroc_interval"]),
            "",
            *(_plain(entry[f"mean_{key}"]) if key == "average_precision" else "" for key in _PLAIN),
        ]
        rows = [["mean", "", *mean]]
        for finding in findings:
            auroc = told(entry["auroc"][finding], entry["auroc_interval"][finding])
            delong = entry["auroc_interval_delong"][finding]
            spread = f"{delong[0]:.3f}-{delong[1]:.3f}" if delong else "n/a"
            rest = [_plain(entry[key][finding]) for key in _PLAIN]
            rows.append([finding, f"{known[finding]:,}", f"{positives[finding]:,}", auroc, spread, *rest])
        yield name, ["", "known", "positive", "AUROC (95 %)", "DeLong 95 %", "AP", "Brier", "ECE"], rows
    for name, entry in found["networks"].items():
        if "thresholds" in entry:
            yield _threshold_table(name, entry, findings)
    if "comparison" in found:
        yield _comparison_table(found["comparison"], findings)
    for kind, groups in found.get("subgroups", {}).items():
        for model in found["networks"]:
            yield _subgroup_table(kind, model, groups, findings)


_PLAIN: Final = ("average_precision", "brier", "expected_calibration_error")


def _threshold_table(name: str, entry: Figures, findings: Sequence[str]) -> tuple[str, list[str], list[list[str]]]:
    heads, rows = [""], [[finding] for finding in findings]
    for rule in next(iter(entry["thresholds"].values()), {}):
        heads += [page.RULES.get(rule, rule.replace("_", " ") + " %"), "sensitivity", "specificity"]
        for row, finding in zip(rows, findings, strict=True):
            threshold, at = (entry[what].get(finding, {}).get(rule) for what in ("thresholds", "at_thresholds"))
            row += [_plain(threshold), *(_plain(at and at[share]) for share in ("sensitivity", "specificity"))]
    return f"{name} at thresholds from validation", heads, rows


def _comparison_table(compared: Figures, findings: Sequence[str]) -> tuple[str, list[str], list[list[str]]]:
    heads = ["", "difference (95 %)", "z", "p", "p (Holm)", "p by patient", "p by patient (Holm)"]
    rows = [["mean", _signed(compared["mean_difference"], compared["mean_difference_interval"]), *[""] * 5]]
    keys = ("p_value", "p_value_holm", "p_value_by_patient", "p_value_by_patient_holm")
    for finding in findings:
        at = compared["findings"][finding]
        z = "n/a" if at["z"] is None else f"{at['z']:.2f}"
        rows.append([finding, _signed(at["difference"], at["interval"]), z, *(_p(at[key]) for key in keys)])
    return f"{compared['first']} less {compared['second']}, DeLong's paired test", heads, rows


def _subgroup_table(
    kind: str, model: str, groups: dict[str, Any], findings: Sequence[str]
) -> tuple[str, list[str], list[list[str]]]:
    rows = [[what, *(f"{at[what]:,}" for at in groups.values())] for what in ("films", "patients")]
    entries = {name: at["networks"][model] for name, at in groups.items()}
    means = [told(entry["mean_auroc"], entry["mean_auroc_interval"]) for entry in entries.values()]
    rows.append(["mean AUROC", *means])
    for finding in findings:
        cells = []
        for name, entry in entries.items():
            known, positives = (groups[name][what][finding] for what in ("known", "positives"))
            of_known = "" if known == groups[name]["films"] else f" of {known}"
            figure = told(entry["auroc"][finding], entry["auroc_interval"][finding])
            cells.append(f"{figure} {positives}+{of_known}")
        rows.append([finding, *cells])
    return f"{model} by {kind}; 12+ are 12 positive films", ["", *map(_visible, groups)], rows


def _visible(text: str) -> str:
    """Text of the entry file, on one line of a terminal."""
    return text if text.isprintable() else repr(text)


def _plain(figure: float | None) -> str:
    return "n/a" if figure is None else f"{figure:.4f}"


def _signed(figure: float | None, interval: Sequence[float] | None) -> str:
    if figure is None:
        return "n/a"
    return f"{figure:+.4f}" + (f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else "")


def _p(figure: float | None) -> str:
    return "n/a" if figure is None else "<0.0001" if figure < 1e-4 else f"{figure:.4f}"


def format_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column stands left, the others right."""
    widths = [max(len(line[k]) for line in [heads, *rows]) for k in range(len(heads))]
    lines = [title]
    for cells in [heads, *rows]:
        first, *rest = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join([f"{first.strip():<{widths[0]}}", *rest]).rstrip())
    return "\n".join(lines)


# Writing


def write(out: Path, films: Matched, found: dict[str, Any]) -> None:
    """Writes `tables.csv`, `roc.png`, `reliability.png`, `report.html` and, last, `metrics.json` into `out`.

    Where `metrics.json` is, the rest is whole. Of numbers that are no probabilities there is no `reliability.png`.
    """
    from chexjax.evaluation import plots  # matplotlib takes half a second to load

    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").unlink(missing_ok=True)
    with (out / "tables.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for title, heads, rows in tables(found, films.findings):
            writer.writerows([[files.cell(cell) for cell in line] for line in ([title], heads, *rows, [])])
    plots.plot_roc(out / "roc.png", films.labels, films.models, films.findings)
    if calibrated := _calibrated(films):
        plots.plot_reliability(out / "reliability.png", films.labels, calibrated, films.findings)
    else:
        (out / "reliability.png").unlink(missing_ok=True)
    (out / "report.html").write_text(as_page(films, found), encoding="utf-8")
    partial = out / "metrics.json.partial"
    partial.write_text(json.dumps(found, indent=2, allow_nan=False), encoding="utf-8")
    partial.rename(out / "metrics.json")


def as_page(films: Matched, found: dict[str, Any]) -> str:
    """The page: the tables, the curves, confusions at thresholds."""
    sections: dict[str, str] = {"Notes": page.bullets(found["notes"])}
    for title, heads, rows in tables(found, films.findings):
        sections[title] = page.table(heads, rows, lead=int(rows[0][0] == "mean"))
    for name, entry in found["networks"].items():
        if "thresholds" in entry:
            sections[f"{name}: confusions"] = page.confusion_table(films.findings, entry)
    sections["ROC curves"] = page.roc_charts(films.labels, films.models, films.findings)
    if calibrated := _calibrated(films):
        sections["Reliability"] = page.reliability_charts(films.labels, calibrated, films.findings)
    sections["Not a medical device"] = page.paragraph(
        "These figures describe scores on films whose labels were mined from reports. They say nothing about a patient."
    )
    subtitle = f"{found['films']:,} films of {found['patients']:,} patients, labels from {found['labels']}"
    return page.page(" and ".join(found["networks"]), subtitle, sections)


def _calibrated(films: Matched) -> dict[str, np.ndarray]:
    """The models whose numbers are probabilities."""
    return {name: numbers for name, numbers in films.models.items() if name not in films.ranked_only}


# The command


@command
def main() -> None:
    """Reads the flags, scores, prints, and writes where `--out` says."""
    values = flags.FlagValues()
    flags.DEFINE_string("predictions", None, "The predictions CSV to score.", flag_values=values)
    flags.DEFINE_string("against", None, "Another model's, for DeLong's paired test.", flag_values=values)
    flags.DEFINE_string(
        "labels", None, "The entry file, Data_Entry_2017_v2020.csv, or a column a finding.", flag_values=values
    )
    flags.DEFINE_string("out", None, "A folder for metrics.json, tables, plots and a page.", flag_values=values)
    flags.DEFINE_list("by", [], f"Also by subgroups: {', '.join(GROUPINGS)}.", flag_values=values)
    flags.DEFINE_string(
        "thresholds_from",
        None,
        "Validation predictions of the first model, to take thresholds from.",
        flag_values=values,
    )
    flags.DEFINE_alias("thresholds-from", "thresholds_from", flag_values=values)
    flags.DEFINE_float(
        "sensitivity", SENSITIVITY, "Of the second threshold, beside Youden's.", 0.0, 1.0, flag_values=values
    )
    if rest := parse(sys.argv, values, __doc__):
        raise ConfigError(f"unexpected argument {rest[0]}: options are written --name=value")
    if not values.predictions or not values.labels:
        raise ConfigError("usage: python -m chexjax.evaluation.score --predictions=A.csv --labels=ENTRY_FILE; --help")
    if unknown := [kind for kind in values.by if kind not in GROUPINGS]:
        raise ConfigError(f"--by knows {', '.join(GROUPINGS)}, not {', '.join(map(repr, unknown))}")

    entries, of_labels = read_labels(Path(values.labels))
    read = [read_predictions(Path(path)) for path in (values.predictions, values.against) if path]
    films, notes = match(entries, read)
    notes = [*of_labels, *notes]
    thresholds = None
    if values.thresholds_from:
        validation = read_predictions(Path(values.thresholds_from))
        thresholds, more = thresholds_from(validation, entries, films, values.sensitivity)
        notes += more
    found = score(films, thresholds, tuple(dict.fromkeys(values.by)))
    if missing := undefined(films.labels, films.findings):
        reasons = ", ".join(f"{finding}: {reason}" for finding, reason in missing.items())
        notes.append(f"n/a, and left out of the mean: {reasons}")
    found = {
        "predictions": values.predictions,
        "against": values.against,
        "labels": printable(Path(values.labels).name),
        **found,
        "notes": [*notes, INTERVALS],
    }
    print("\n".join(notes))
    print(f"{found['films']:,} films of {found['patients']:,} patients\n")
    print("\n\n".join(format_table(*table) for table in tables(found, films.findings)))
    print(f"\n{INTERVALS}")
    if values.out:
        write(Path(values.out), films, found)
        print(f"metrics.json, tables.csv, charts and report.html are in {values.out}")


if __name__ == "__main__":
    main()
