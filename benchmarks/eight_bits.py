"""What 8 bits cost a trained network: its ONNX file in float32 and in 8 bits over the test films, and the Classifier.

    python -m benchmarks.eight_bits --checkpoint=WORKDIR [--ranges=128] [--batch=32] [--json=FILE]

WORKDIR is a run whose films are at hand. Ranges for 8 bits are taken from films spread over the training part. Printed
are how far probabilities and maps lie from the Classifier's, the AUROC of each file, and their sizes and speeds.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.contest import Results, finish, introduce, parser_of, table
from benchmarks.exported import session_of
from chexjax.data.films import open_films
from chexjax.data.pipeline import Records
from chexjax.errors import exit_with_message
from chexjax.evaluation.metrics import auroc
from chexjax.export.onnx_file import OPSET, to_int8, to_onnx
from chexjax.predict import Classifier
from chexjax.workdir.restore import restore_best


def run_file(model: bytes, films: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Probabilities and maps of all films, and films a second."""
    session = session_of(model)
    names = ["probabilities", "maps"]
    session.run(names, {"films": films[:batch]})
    began = time.perf_counter()
    found = [session.run(names, {"films": films[k : k + batch]}) for k in range(0, len(films), batch)]
    rate = len(films) / (time.perf_counter() - began)
    probabilities, maps = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return probabilities, maps, rate


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints the table; returns its figures."""
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--ranges", type=int, default=128, help="films from which ranges are taken")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args(argv)
    with exit_with_message():
        restored = restore_best(options.checkpoint)
        prepared = open_films(restored.config.data)
        train, test = (Records(prepared.source(part)) for part in ("train", "test"))
        records = [test[k] for k in range(len(test))]
        films, labels = (np.stack([record[key] for record in records]) for key in ("image", "label"))
        films = films[..., 0]
        chosen = np.linspace(0, len(train) - 1, min(options.ranges, len(train))).astype(int)
        exact = to_onnx(restored)
        files = {"float32": exact, "8 bits": to_int8(exact, [train[k]["image"][..., 0] for k in chosen])}
        classifier = Classifier.from_checkpoint(options.checkpoint, maps="cam")
    introduce(f"{', '.join(restored.models)} of {options.checkpoint.name}, {len(films)} films, opset {OPSET}")
    began = time.perf_counter()
    expected = classifier.predict(list(films))
    rate = len(films) / (time.perf_counter() - began)
    truth, maps = (np.stack([getattr(each, name) for each in expected]) for name in ("probabilities", "maps"))
    own = np.asarray(auroc(labels, truth))
    results: Results = {"films": len(films), "Classifier": {"films/s": rate, "AUROC": float(np.nanmean(own))}}
    rows = [["Classifier", f"{np.nanmean(own):.4f}", "", "", "", "", "", f"{rate:.0f}"]]
    for name, file in files.items():
        probabilities, theirs, rate = run_file(file, films, options.batch)
        loss = own - auroc(labels, probabilities)
        apart = np.abs(probabilities - truth)
        results[name] = {
            "films/s": rate, "megabytes": len(file) / 1e6, "AUROC": float(np.nanmean(own - loss)),
            "largest loss": float(np.nanmax(loss)), "by finding": restored.findings[int(np.nanargmax(loss))],
            "probabilities": {"mean": float(apart.mean()), "max": float(apart.max())},
            "maps": {"mean": float(np.abs(theirs - maps).mean()), "max": float(np.abs(theirs - maps).max())},
            "map": {"mean": float(np.abs(maps).mean()), "max": float(np.abs(maps).max())},
        }  # fmt: skip
        found = results[name]
        rows.append([
            f"ONNX, {name}, {found['megabytes']:.1f} MB", f"{found['AUROC']:.4f}",
            f"{found['largest loss']:.4f} ({found['by finding']})", f"{apart.mean():.1e}", f"{apart.max():.1e}",
            *(f"{found['maps'][key]:.1e} of {found['map'][key]:.1f}" for key in ("mean", "max")), f"{rate:.0f}",
        ])  # fmt: skip
    head = ["scored by", "mean AUROC", "largest loss", "probabilities differ, mean", "at most"]
    head += ["maps differ, mean", "at most", "films/s"]
    print(table(head, rows))
    return finish(results, options.json)


if __name__ == "__main__":
    main()
