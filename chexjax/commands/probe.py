"""Evaluates a network's frozen features by logistic regression on films that it was not trained on.

    python -m chexjax.training.probe --weights=FOLDER --films=PREPARED [--stages=N] [--network=NAME] [--out=DIR]

FOLDER holds imported weights, with or without a head, or is a run's workdir. PREPARED is a set that `chexjax prepare`
made, at the network's input size. Each finding gets a logistic regression on the standardised features of the training
films. One penalty for all findings is chosen on the validation films, and the test films are scored once. `--stages=N`
probes a network after its N-th stage, and needs no weights of later ones.
"""

import sys
from pathlib import Path

from absl import flags

from chexjax.errors import ConfigError, command
from chexjax.files import folder_path
from chexjax.runtime import parse, progress_bar


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("weights", None, "Imported weights, or a run's workdir.", flag_values=values)
    flags.DEFINE_string("films", None, "A prepared set, the folder that `chexjax prepare` names.", flag_values=values)
    flags.DEFINE_integer("stages", 0, "Probe after so many stages; 0: the whole trunk.", 0, flag_values=values)
    flags.DEFINE_string("network", "", "Which network of a workdir that holds several.", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "Films at once.", 1, flag_values=values)
    flags.DEFINE_string("out", None, "A folder for predictions.csv of the test films.", flag_values=values)
    if rest := parse(sys.argv, values, __doc__):
        raise ConfigError(f"unexpected argument {rest[0]}: options are written --name=value")
    if not (values.weights and values.films):
        raise ConfigError("usage: python -m chexjax.training.probe --weights=FOLDER --films=PREPARED; --help says more")

    from chexjax.data.prepared import load
    from chexjax.devices import find_devices
    from chexjax.evaluation.predictions import write_predictions
    from chexjax.training.features import pooled_features
    from chexjax.training.probe import PARTS, fit, open_trunk, table

    find_devices()
    frozen = open_trunk(Path(values.weights).expanduser(), values.stages, values.network)
    films = load(Path(values.films).expanduser())
    out = folder_path(values.out, "--out") if values.out else None
    parts = [films.parts[name] for name in PARTS]
    features = []
    with progress_bar(sum(len(part.names) for part in parts), "features", shown=True) as bar:
        for name in PARTS:
            source = films.source(name)
            extract = [lambda variables, x: frozen.trunk.apply(variables, x)]
            batch = values.batch_size
            features.append(
                pooled_features(extract, [frozen.variables], source, frozen.mean, frozen.std, batch, 2, bar.update)
            )
    probed = fit(features, [part.labels for part in parts[:2]])
    print(table(frozen, features[0].shape[1], probed, parts[2], films.findings))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_predictions(out / "predictions.csv", parts[2].names, probed.probabilities, films.findings)
        print(f"the test films' probabilities are in {out / 'predictions.csv'}")
