"""Thresholds for `python -m chexjax.evaluation.score`, whose help is in `chexjax.commands.score`."""

if __name__ == "__main__":
    from chexjax.commands.score import main  # without the libraries below: --help needs none
    from chexjax.runtime import run

    run(main)


from chexjax.errors import DataError, first_ten
from chexjax.evaluation.predictions import (
    Labels,
    Matched,
    PredictionFile,
    match,
)
from chexjax.evaluation.summary import (
    SENSITIVITY,
    Thresholds,
    find_thresholds,
)


def thresholds_from(
    table: PredictionFile, labels: Labels, films: Matched, sensitivity: float = SENSITIVITY
) -> tuple[Thresholds, list[str]]:
    """Thresholds from the first model's validation predictions, with notes.

    Raises:
      DataError: its films have no labels, or some of them are among those that are scored.
    """
    validation, notes = match(labels.entries, [table], labels.findings)
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
