"""One training step of each network: chexjax beside PyTorch, in turn, in one run.

    python -m benchmarks.train_step [--models=resnet18,resnet50,densenet121,densenet169] [--size=224] [--batch=16]
        [--dtypes=float32,bfloat16] [--rounds=7] [--compile=no] [--json=FILE]

Both take uint8 grey films (uniform noise) that lie on the device, normalise them, and move a network of 14 outputs by
Adam down the binary cross-entropy; no augmentation. PyTorch: torchvision's networks (or, where it does not import,
twins with its shapes), channels_last, eager and torch.compile, float32 and bfloat16 autocast. On an accelerator that
is in `BOUNDS`, the share of its bounds is printed, too. Contestants that are not installed are left out and named.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.contest import (
    Results,
    finish,
    here,
    introduce,
    noise,
    parser_of,
    ratio,
    step_of,
    table,
    take_turns,
    waiting,
)
from chexjax.configs import baseline

torch: Any
try:
    import torch

    from tests.torch_networks import create_torch_network
except ImportError:
    torch = None

# Training images a second at 224 px in bfloat16 that the chip allows: by its arithmetic, and by its memory if every
# elementwise operation were fused into the convolution before it.
BOUNDS: Final = {
    "NVIDIA H200": {
        "resnet18": (72_600, 83_000),
        "resnet50": (32_200, 19_100),
        "densenet121": (46_500, 16_800),
        "densenet169": (None, 14_100),
    }
}


def plain_config(model: str, dtype: str) -> ConfigDict:
    """A supervised run by Adam, without augmentation."""
    config = baseline.get_config(model)
    config.dtype = dtype
    config.networks.net1.update({"optimizer": "adam", "weight_decay": 0.0, "schedule": "constant"})
    config.augment.update({"crop": 1.0, "flip": 0.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    return config


def prepare_torch(
    model: str, dtype: str, batch: dict[str, np.ndarray], compiled: bool, calls: int
) -> Callable[[], Any]:
    """`calls` such steps in PyTorch, waiting for the last."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, where the chip has it
    network = create_torch_network(model, channels=1).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4, fused=device == "cuda")
    images = torch.from_numpy(batch["image"].reshape(-1, 1, *batch["image"].shape[2:4])).to(device)
    labels = torch.from_numpy(batch["label"].reshape(-1, 14)).float().to(device)

    def loss_of(images: Any) -> Any:
        x = ((images.float() / 255.0 - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = network(x)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)

    objective = torch.compile(loss_of) if compiled else loss_of

    def run() -> Any:
        for _ in range(calls):
            loss = objective(images)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return loss.item() if device == "cpu" else torch.cuda.synchronize()

    return run


def compare(model: str, dtype: str, options: Any) -> Results:
    """Images a second of every contestant, and ratios of their times to ours."""
    batch, calls = noise(options.batch, options.size), here(1, 20)
    step, _ = step_of(plain_config(model, dtype), batch)
    runs = {"chexjax": waiting(step, calls)}
    for name, compiled in (("torch eager", False), ("torch.compile", True)):
        if torch is not None and (options.compile == "yes" or not compiled):
            runs[name] = prepare_torch(model, dtype, batch, compiled, calls)
    times = take_turns(runs, options.rounds)
    rates = {name: options.batch * calls / statistics.median(values) for name, values in times.items()}
    found = {
        "model": model,
        "dtype": dtype,
        "images_per_second": rates,
        "torch_over_chexjax": {name: ratio(times, name, "chexjax") for name in runs if name != "chexjax"},
    }
    bounds = BOUNDS.get(jax.devices()[0].device_kind, {}).get(model)
    if bounds and dtype == "bfloat16" and options.size == 224:
        found["share_of_bounds"] = [bound and rates["chexjax"] / bound for bound in bounds]
    return found


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints a table with a row per network and dtype."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", default="resnet18,resnet50,densenet121,densenet169")
    parser.add_argument("--dtypes", default=here("float32", "float32,bfloat16"))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=here(16, 256))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", choices=["yes", "no"], default="yes", help="also torch.compile")
    options = parser.parse_args(argv)
    introduce(f"training step, {options.size} px, batch {options.batch}, noise, Adam, {options.rounds} rounds")
    if torch is None:
        print("torch is not installed: chexjax alone (pip install 'chexjax[torch]')")
    found = []
    for model in options.models.split(","):
        for dtype in options.dtypes.split(","):
            jax.clear_caches()
            found.append(compare(model, dtype, options))
            print(found[-1], flush=True)
    names = list(found[0]["images_per_second"])
    rows = [
        [
            row["model"],
            row["dtype"],
            *(f"{row['images_per_second'][name]:.1f}" for name in names),
            *(f"{ratio['medians']:.2f} ({ratio['best']:.2f})" for ratio in row["torch_over_chexjax"].values()),
            ", ".join(f"{share:.0%}" if share else "-" for share in row.get("share_of_bounds", [])),
        ]
        for row in found
    ]
    ratios = [f"{name} / chexjax, time (at best)" for name in found[0]["torch_over_chexjax"]]
    print("\n" + table(["network", "dtype", *(f"{name}, images/s" for name in names), *ratios, "of bounds"], rows))
    return finish({"size": options.size, "batch": options.batch, "steps": found}, options.json)


if __name__ == "__main__":
    main()
