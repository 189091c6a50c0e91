"""Makes what `chexjax self-test` compares with: `python -m tests.self_test_files [--run=WORKDIR]`.

Trains a small network on simulated films (a minute on two quiet cores; or takes that of an evaluated run), and keeps
its best checkpoint without the optimiser's part, its calibration and gate, six films, and what it makes of them. The
last is computed in float64: in this process what the package calls float32 is float64.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)
jnp.float32 = jnp.float64  # before flax and chexjax are imported, whose defaults name it

import numpy as np
from orbax.checkpoint import v1 as ocp
from PIL import Image

from chexjax.data.sources.phantom import ARTIFACTS, plan_films, render_film
from chexjax.evaluation.report import METRICS
from chexjax.files import write_manifest
from chexjax.self_test.comparison import (
    EXPECTED,
    FILMS,
    STORED,
    TOLERANCES,
    WORKDIR,
    compute,
    joined,
    read_films,
    restore,
)
from chexjax.workdir.checkpoints import ARRAYS, METADATA, Checkpoints

TRAIN = (
    "--config=configs/baseline.py", "--config.networks.net1.width=0.0625", "--config.networks.net1.learning_rate=2e-3",
    "--config.epochs=4", "--config.data.size=96", "--config.data.clean=True", "--config.data.phantom.size=224",
    "--config.data.phantom.count=1600",
)  # fmt: skip
SEED, SIDE = 7, 208


def write_films(folder: Path) -> None:
    """Six simulated films with bright artefacts; one is cut, one upside down, one inverted."""
    folder.mkdir(parents=True)
    for number, film in enumerate(plan_films(6, seed=SEED, artifact_share=1.0, artifact_kinds=ARTIFACTS)):
        pixels, _ = render_film(film, SIDE)
        changed = {3: pixels[:, 16:-8], 4: pixels[::-1, ::-1], 5: 255 - pixels}.get(number, pixels)
        Image.fromarray(changed).save(folder / f"{number}.png", optimize=True)


def keep_networks(run: Path, workdir: Path) -> None:
    """The best checkpoint of a run without what only training needs, and what its evaluation kept."""
    step = Checkpoints(run).best
    kept, source = workdir / "checkpoints" / str(step), run / "checkpoints" / str(step)
    kept.mkdir(parents=True)
    parts = ocp.load_checkpointables(str((source / ARRAYS).resolve()), {"networks": None})
    ocp.save_checkpointables(str((kept / ARRAYS).resolve()), {"networks": parts["networks"]})
    (kept / ARRAYS / "commit_success.txt").write_text("Checkpoint commit was successful\n")  # it named the folder
    metadata = json.loads((source / METADATA).read_text())
    about = {key: metadata[key] for key in ("auroc", "data", "findings", "groups")}
    about |= {"history": [], "sha256": {"networks": metadata["sha256"]["networks"]}}
    (kept / METADATA).write_text(json.dumps(about))
    config = json.loads((source / "config.json").read_text())
    config["data"]["cache"] = ""  # a folder of whoever made it
    for folder in (kept, workdir):
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_manifest(kept)
    for name in ("calibration.json", "domain.npz"):
        shutil.copy(run / name, workdir / name)
    found = json.loads((run / METRICS).read_text())
    thresholds = {name: {"thresholds": network["thresholds"]} for name, network in found["networks"].items()}
    (workdir / METRICS).write_text(json.dumps({"step": found["step"], "networks": thresholds}))


def main() -> None:
    """Writes `chexjax/self_test/stored` anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    shutil.rmtree(STORED, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or Path(folder) / "run"
        if not options.run:
            subprocess.run([sys.executable, "-m", "chexjax.main", *TRAIN, f"--workdir={run}"], check=True)
        keep_networks(run, STORED / WORKDIR)
    write_films(STORED / FILMS)
    films = read_films()
    found = compute(restore(), films)
    assert found["logits"].dtype == np.float64
    assert set(found["statuses"]) == {"ok", "doubtful"}
    # Nothing decided so near to a limit that rounding could turn it.
    assert np.abs(found["distances"] - 1).min() > 10 * TOLERANCES["distances from the training films"]
    removed = joined(films.values()) - found.pop("cleaned")
    np.savez_compressed(STORED / EXPECTED, removed=removed, **found)
    size = sum(path.stat().st_size for path in STORED.rglob("*") if path.is_file())
    print(f"{STORED}: {size:,} bytes; statuses {', '.join(found['statuses'])}; distances {found['distances'].round(3)}")


if __name__ == "__main__":
    main()
