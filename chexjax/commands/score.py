"""Scores any model's predictions CSV against labels: metrics with intervals, and two models side by side.

    python -m chexjax.evaluation.score --predictions=A.csv --labels=Data_Entry_2017_v2020.csv [--out=DIR]
        [--against=B.csv] [--by=sex,age,view] [--thresholds_from=VAL.csv]

The formats are described at `read_predictions` and `read_labels` in `chexjax.evaluation.predictions`. Unknown,
uncertain and soft labels are left out, finding by finding; each metric is printed with the number of films left.
"""

import sys
from pathlib import Path
from typing import Final

from absl import flags

from chexjax.errors import ConfigError, command, printable
from chexjax.files import folder_path
from chexjax.runtime import parse

GROUPINGS: Final = ("sex", "age", "view")


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
    flags.DEFINE_float("sensitivity", 0.9, "Of the second threshold, beside Youden's.", 0.0, 1.0, flag_values=values)
    if rest := parse(sys.argv, values, __doc__):
        raise ConfigError(f"unexpected argument {rest[0]}: options are written --name=value")
    if not values.predictions or not values.labels:
        raise ConfigError("usage: python -m chexjax.evaluation.score --predictions=A.csv --labels=ENTRY_FILE; --help")
    if unknown := [kind for kind in values.by if kind not in GROUPINGS]:
        raise ConfigError(f"--by knows {', '.join(GROUPINGS)}, not {', '.join(map(repr, unknown))}")

    from chexjax.devices import find_devices
    from chexjax.evaluation.predictions import columns_of, match, read_labels, read_predictions
    from chexjax.evaluation.score import thresholds_from
    from chexjax.evaluation.summary import INTERVALS, note_on_undefined, summarize_scores
    from chexjax.evaluation.tables import as_text, score_tables

    find_devices()
    out = folder_path(values.out, "--out") if values.out else None
    labels = read_labels(Path(values.labels), columns_of(Path(values.predictions)))
    read = [read_predictions(Path(path), labels.findings) for path in (values.predictions, values.against) if path]
    films, notes = match(labels.entries, read, labels.findings)
    notes = [*labels.notes, *notes]
    thresholds = None
    if values.thresholds_from:
        validation = read_predictions(Path(values.thresholds_from), labels.findings)
        thresholds, more = thresholds_from(validation, labels, films, values.sensitivity)
        notes += more
    found = summarize_scores(films, thresholds, tuple(dict.fromkeys(values.by)))
    notes += note_on_undefined(films.labels, films.findings)
    found = {
        "predictions": values.predictions,
        "against": values.against,
        "labels": printable(Path(values.labels).name),
        **found,
        "notes": [*notes, INTERVALS],
    }
    print("\n".join(notes))
    print(f"{found['films']:,} films of {found['patients']:,} patients\n")
    print("\n\n".join(map(as_text, score_tables(found, films.findings))))
    print(f"\n{INTERVALS}")
    if out:
        from chexjax.evaluation.report import write_score  # matplotlib takes half a second to load

        write_score(out, films, found)
        print(f"metrics.json, tables.csv, charts and report.html are in {values.out}")
