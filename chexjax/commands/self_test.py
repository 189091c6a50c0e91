"""Tests whether this installation computes what it should.

    chexjax self-test

Runs simulated films through a small network, both part of the package, on each backend that JAX finds: CPU, GPU, TPU.
Each check prints one line: the largest difference from the results in float64, and the largest difference allowed. It
needs no internet connection and writes nothing but compiled programs, to the cache.

Exit status: 0 all checks pass, 1 one fails or the stored files cannot be read, 64 usage.
"""

import sys
from importlib.metadata import version

from absl import flags

from chexjax.errors import ConfigError, command, usage
from chexjax.runtime import parse


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    with usage():
        if parse(sys.argv, values, __doc__):
            raise ConfigError("usage: chexjax self-test; it takes no arguments")
    raise SystemExit(run())


def run() -> int:
    """Prints the checks of each backend; 0 if all pass, else 1."""
    import jax

    import chexjax
    from chexjax.devices import find_devices
    from chexjax.self_test.comparison import compare, compute, find_backends, read_expected, read_films, restore

    find_devices()
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "numpy", "pillow"))
    print(f"chexjax {chexjax.__version__}, {packages}, Python {sys.version.split()[0]}")
    films, restored = read_films(), restore()
    expected = read_expected(films)
    failed: list[str] = []
    for backend, device in find_backends().items():
        print(f"{backend}: {device.device_kind}, {len(films)} films", flush=True)
        with jax.default_device(device):
            checks = list(compare(compute(restored, films), expected))
        for check in checks:
            mark = "ok  " if check.passed else "FAIL"
            print(f"  {mark} {check.name}: {check.difference:.2g}, at most {check.tolerance:g}")
        failed += [f"{check.name} ({backend})" for check in checks if not check.passed]
    if failed:
        print(f"not as it should be: {'; '.join(failed)}", file=sys.stderr)
        return 1
    print("this install computes what it should")
    return 0
