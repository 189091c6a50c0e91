"""Accelerators for which programs can be compiled without having one, and the peak figures of each.

Compiling needs only the chip's compiler: for NVIDIA the wheels jax-cuda13-plugin and jax-cuda13-pjrt of jax's own
version (`pip install --no-deps`, no driver and no other nvidia wheel), for TPUs libtpu. Figures are the makers', for
dense matrices; the description of a GPU for XLA has the form of openxla/xla, xla/backends/gpu/target_config/specs.
"""

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from typing import Any, Final

GIB: Final = 2**30


@dataclass(frozen=True)
class Chip:
    """One kind of accelerator.

    `memory` bytes; `bandwidth` of it, bytes a second; `flops`: floating-point operations a second by the dtype of a
    program whose float32 products are as XLA makes them by default (TF32 on a GPU, bfloat16 on a TPU). `share`: the
    part of the memory that JAX takes by default. `topologies`: of a TPU, by the number of devices wanted.
    """

    platform: str
    memory: int
    bandwidth: float
    flops: dict[str, float]
    share: float
    target: str = ""
    topologies: tuple[tuple[int, str], ...] = ()


def _gpu(
    name: str, capability: int, cores: int, fpus: int, memory: int, bandwidth: float, l2: int, clock: float,
    shared: int, bfloat16: float,
) -> Chip:  # fmt: skip
    target = f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {shared - 1024}
          core_count: {cores} fpus_per_core: {fpus} clock_rate_ghz: {clock}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
          memory_bandwidth: {bandwidth:.0f} l2_cache_size: {l2} device_memory_size: {memory}
          cuda_compute_capability {{
            major: {capability} feature_extension: {"ACCELERATED_FEATURES" if capability >= 9 else "NONE"}
          }}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          device_vendor: "NVIDIA Corporation" name: "{name}"
          driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
          dnn_version: "9.10.0"
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
        device_description_str: "{name}"
    """
    return Chip("cuda", memory, bandwidth, {"bfloat16": bfloat16, "float32": bfloat16 / 2}, 0.75, target)


def _tpu(memory: int, bandwidth: float, bfloat16: float, *topologies: tuple[int, str]) -> Chip:
    return Chip(
        "tpu", memory, bandwidth, {"bfloat16": bfloat16, "float32": bfloat16}, 1.0, topologies=topologies
    )  # fmt: skip


CHIPS: Final[dict[str, Chip]] = {
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 85_100_068_864, 2.039e12, 41_943_040, 1.41, 167_936, 312e12),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 84_942_979_072, 3.352e12, 52_428_800, 1.98, 233_472, 989e12),
    "h200": _gpu("NVIDIA H200", 9, 132, 128, 151_397_597_184, 4.8e12, 52_428_800, 1.98, 233_472, 989e12),
    "b200": _gpu("NVIDIA B200", 10, 148, 128, 191_514_411_008, 7.672e12, 132_644_864, 1.965, 233_472, 2250e12),
    # Of a v4 without "megacore" a device is one of the chip's two cores, with half of all.
    "v4": _tpu(16 * GIB, 0.614e12, 137.5e12, (8, "v4:2x2x1")),
    "v5e": _tpu(16 * GIB, 819e9, 197e12, (4, "v5e:2x2"), (8, "v5e:2x4")),
    "v5p": _tpu(95 * GIB, 2.765e12, 459e12, (4, "v5p:2x2x1"), (8, "v5p:2x2x2")),
    "v6e": _tpu(32 * GIB, 1.638e12, 918e12, (4, "v6e:2x2"), (8, "v6e:2x4")),
}

WHEELS: Final = {"cuda": ("jax-cuda13-plugin", "jax-cuda13-pjrt"), "tpu": ("libtpu",)}


def missing(name: str) -> str:
    """Why nothing can be compiled here for a chip; "" if it can."""
    wheels, wanted = WHEELS[CHIPS[name].platform], {}
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"compiling for {name} needs Linux on x86-64"
    for wheel in wheels:
        try:
            wanted[wheel] = importlib.metadata.version(wheel)
        except importlib.metadata.PackageNotFoundError:
            return f"{wheel} is not installed, which compiles for {name} (see benchmarks/README.md)"
    jax_version = importlib.metadata.version("jax")
    for wheel, version in wanted.items():
        if wheel != "libtpu" and version != jax_version:
            return f"{wheel} {version} does not fit jax {jax_version}; they must have one version"
    return ""


def environment(name: str, flags: str = "") -> dict[str, str]:
    """The environment of a process that compiles for a chip; it must be set before JAX is imported.

    `flags` are more of XLA's. Nothing runs, so nothing can be timed: XLA chooses a GPU's kernels without trying them
    (`autotune_level=0`).
    """
    common = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    if CHIPS[name].platform == "cuda":
        return common | {"XLA_FLAGS": f"--xla_gpu_autotune_level=0 {flags}"}
    return common | {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing runs, so several processes may compile
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }


def devices(name: str, count: int) -> list[Any]:
    """`count` devices of an absent chip: programs can be lowered and compiled for them, but not run."""
    from jax.experimental import topologies

    chip = CHIPS[name]
    if chip.platform == "cuda":
        found = topologies.get_topology_desc(
            platform="cuda", topology_name="", topology=f"1x1x{count}", target_config=chip.target
        )
    else:
        sizes = [size for size, _ in chip.topologies]
        fitting = next((topology for size, topology in chip.topologies if size >= count), None)
        if fitting is None:
            raise ValueError(f"{name} can be compiled for with {max(sizes)} devices at most, not {count}")
        found = topologies.get_topology_desc(platform="tpu", topology_name=fitting)
    return list(found.devices[:count])
