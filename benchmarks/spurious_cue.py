"""Does cleaning help? The same baseline on films whose artefacts betray a finding, cleaned and not.

    python -m benchmarks.spurious_cue --out=DIR

Simulated films of 512 px. In training and validation, nine in ten films with the finding have a bright artefact, and
one in ten of the others; in the test split, one in ten of both. There a network that learned the artefact instead of
the finding is exposed. Three seeds each; prints the AUROC of that finding, and the mean over all findings, per seed.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

from chexjax.configs import baseline
from chexjax.data.sources.phantom import write_films
from chexjax.training import loop

FINDING = "Nodule"
SEEDS = (1, 2, 3)


def write_folder(folder: Path, count: int) -> None:
    """Films with the cue, but those of the test split without it."""
    options = {"count": count, "size": 512, "seed": 11, "artifact_share": 0.1, "workers": 2}
    cued, plain = folder.with_name("cued"), folder.with_name("plain")
    write_films(cued, **options, cue_finding=FINDING, cue_share=0.9)
    write_films(plain, **options)
    for name in (cued / "test_list.txt").read_text().split():
        shutil.copy(plain / "images" / name, cued / "images" / name)
    cued.rename(folder)


def run(folder: Path, out: Path, clean: bool, seed: int) -> tuple[float, float]:
    """Test AUROC of the finding, and the mean over findings, of one ResNet-18 at 64 px."""
    config = baseline.get_config()
    config.data.update({"source": "chestxray14", "dir": str(folder), "cache": str(out / "cache"), "clean": clean})
    config.networks.net1.seed = seed
    workdir = out / f"{'cleaned' if clean else 'as-is'}-{seed}"
    loop.train(config, workdir)
    loop.evaluate(config, workdir)
    found = json.loads((workdir / "metrics.json").read_text())["networks"]["net1"]
    return found["auroc"][FINDING], found["mean_auroc"]


def main() -> None:
    """Runs everything and prints a table; when run again, it continues where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    folder = options.out / "films"
    if not folder.exists():
        write_folder(folder, options.count)
    table = {clean: [run(folder, options.out, clean, seed) for seed in SEEDS] for clean in (False, True)}
    print(f"{'':8} {FINDING + ' AUROC per seed':32} {'mean (sd)':18} mean of 14 (sd)")
    for clean, rows in table.items():
        finding, overall = zip(*rows, strict=True)
        cells = [f"{statistics.mean(x):.3f} ({statistics.stdev(x):.3f})" for x in (finding, overall)]
        print(
            f"{'cleaned' if clean else 'as is':8} {'  '.join(f'{x:.3f}' for x in finding):32} {cells[0]:18} {cells[1]}"
        )


if __name__ == "__main__":
    main()
