"""What data parallelism costs: the messages in a compiled step, for 1, 2, 4, 8 virtual devices and for 2 processes.

    python -m benchmarks.scaling [--models=resnet18,resnet50,densenet121] [--devices=1,2,4,8] [--json=FILE]

Counts all-reduces and their bytes in the optimised HLO of the training step, with statistics over all devices
(`sync_batch_norm`) and without. Nothing is timed: virtual devices share one processor. The projection for 8 and 256
accelerators is arithmetic on named assumptions (`ASSUMED`): an all-reduce of B bytes over n devices takes
2 (n - 1) / n B / bandwidth plus a latency, and nothing of it is hidden behind the computation.
"""

import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import jax

from benchmarks.contest import Results, compile_step, finish, introduce, noise, parser_of, table
from chexjax.configs import baseline

SIZE: Final = 64  # of the films; messages do not depend on it
BYTES: Final = {"f32": 4, "bf16": 2, "u8": 1, "s32": 4, "u32": 4, "pred": 1}


class Machine(NamedTuple):
    """So many accelerators: bytes a second that one sends and receives, and seconds a message takes at least."""

    devices: int
    bandwidth: float
    latency: float


ASSUMED: Final = (
    Machine(8, 300e9, 20e-6),  # one node: NVLink, two thirds of 450 GB/s each way
    Machine(256, 40e9, 80e-6),  # 32 nodes: 400 Gbit/s an accelerator, four fifths of it
)
FILMS: Final = 256  # a device
# Films a second of one device, what XLA is expected to reach on an H200 at 224 px in bfloat16.
RATES: Final = {"resnet18": 24_000, "resnet50": 6_900, "densenet121": 4_900}


def count(model: str, sync: bool) -> Results:
    """All-reduces of the compiled step over all devices of all processes, and their bytes a device."""
    config = baseline.get_config(model)
    config.sync_batch_norm = sync
    compiled, _ = compile_step(config, noise(2 * jax.local_device_count(), SIZE))
    messages = all_reduces(compiled.as_text())
    return {
        "model": model,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "sync_batch_norm": sync,
        "messages": len(messages),
        "bytes": sum(messages),
        "largest": max(messages, default=0),
    }


def all_reduces(text: str) -> list[int]:
    """The bytes of each all-reduce in an HLO text."""
    found = []
    for shape in re.findall(r"= (\(?[^=\n]*?\)?) all-reduce(?:-start)?\(", text):
        parts = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
        found.append(
            sum(BYTES[kind] * math.prod(map(int, filter(None, extents.split(",")))) for kind, extents in parts)
        )
    return found


def project(row: Results, machine: Machine) -> Results:
    """A step's time with the row's messages on `machine`, none hidden; and its efficiency in weak scaling."""
    alone = FILMS / RATES[row["model"]]
    wire = 2 * (machine.devices - 1) / machine.devices * row["bytes"] / machine.bandwidth
    waits = row["messages"] * machine.latency
    return {"devices": machine.devices, "compute": alone, "wire": wire, "latency": waits} | {
        "efficiency": alone / (alone + wire + waits)
    }


def worker(devices: int, processes: int, models: str) -> list[Results]:
    """Runs `count` in new processes with so many virtual devices in all."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.scaling",
                f"--count={models}",
                f"--join={address},{processes},{rank}",
            ],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"error: counting on {devices} devices in {processes} processes failed")
    return json.loads(outputs[0].splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints the messages of each step, and the projection."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", default="resnet18,resnet50,densenet121")
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--count", help="(used by itself) count in this process")
    parser.add_argument("--join", help="(used by itself) address, number of processes, rank")
    options = parser.parse_args(argv)
    if options.count:
        address, processes, rank = options.join.split(",")
        if int(processes) > 1:
            jax.distributed.initialize(address, int(processes), int(rank))
        rows = [count(model, sync) for model in options.count.split(",") for sync in (True, False)]
        print(json.dumps(rows))
        return {}
    introduce("messages of a training step, by its optimised HLO")
    rows = []
    for devices in map(int, options.devices.split(",")):
        rows += worker(devices, 1, options.models)
    rows += worker(2, 2, options.models)
    rows = [
        [
            row["model"],
            f"{row['devices']} in {row['processes']}",
            "yes" if row["sync_batch_norm"] else "no",
            row["messages"],
            f"{row['bytes'] / 2**20:.2f}",
            f"{row['largest'] / 2**20:.2f}",
        ]
        for row in rows
    ]
    print(table(["network", "devices in processes", "sync_batch_norm", "all-reduces", "MiB", "largest"], rows))
    largest = max(row["devices"] for row in rows)
    projected = [
        {**{key: row[key] for key in ("model", "sync_batch_norm")}, **project(row, machine)}
        for row in rows
        if row["devices"] == largest
        for machine in ASSUMED
        if row["model"] in RATES
    ]
    rows = [
        [
            row["model"],
            "yes" if row["sync_batch_norm"] else "no",
            row["devices"],
            *(f"{1e3 * row[key]:.2f}" for key in ("compute", "wire", "latency")),
            f"{row['efficiency']:.0%}",
        ]
        for row in projected
    ]
    print(
        f"\nprojected, not measured: {FILMS} films of 224 px a device, bfloat16, float32 gradients, nothing hidden; "
        + "; ".join(f"{m.devices} devices: {m.bandwidth / 1e9:.0f} GB/s, {1e6 * m.latency:.0f} us" for m in ASSUMED)
    )
    head = ["network", "sync_batch_norm", "devices", "compute, ms", "wire, ms", "latency, ms", "weak scaling"]
    print(table(head, rows))
    return finish({"messages": rows, "projected": projected}, options.json)


if __name__ == "__main__":
    main()
