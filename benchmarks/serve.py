"""The service under load: films a second and latency by the number of clients, beside the Classifier in one process.

    python -m benchmarks.serve [--checkpoint=WORKDIR] [--films=FOLDER] [--clients=1,8,64] [--seconds=10] [--mixed=10000]

The service is a process of its own on this machine; the clients are threads of this one, each with a connection that it
keeps, and ask again as soon as they are answered. So clients and service share the processors. Then `--mixed` requests,
of which a third are damaged files, are sent at once by eight clients: each good film must get its own probabilities,
each bad one an answer, and the service must still be sound. Without a checkpoint an untrained ResNet-18 of 128 px is
served; without films, simulated ones are drawn.
"""

import http.client
import io
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.contest import Results, finish, introduce, parser_of, table
from chexjax.configs import common
from chexjax.data.sources.phantom import plan_films, render_film
from chexjax.predict import Classifier
from tests.fuzz.mutate import damage, mend_png
from tests.untrained import save_untrained

HOSTILE = 1 / 3  # of the mixed requests
SENDERS = 8  # of them


def encoded_films(folder: Path | None, count: int) -> list[bytes]:
    """The content of so many PNG or JPEG files."""
    if folder:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))[:count]
        return [path.read_bytes() for path in paths]
    films = []
    for film in plan_films(count, seed=0):
        file = io.BytesIO()
        Image.fromarray(render_film(film, 256)[0]).save(file, "PNG")
        films.append(file.getvalue())
    return films


@contextmanager
def service_of(workdir: Path, *flags: str) -> Iterator[str]:
    """The address of a service in a process of its own, which must end well."""
    command = [sys.executable, "-m", "chexjax.serve", f"--checkpoint={workdir}", "--port=0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        found = next(filter(None, (re.match(r"ready: (\S+)", line) for line in process.stdout)), None)
        assert found, "the service did not start"
        yield found[1]
        process.terminate()
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()


class Client:
    """A connection that is kept, and opened anew where the service closes it."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def ask(self, film: bytes) -> tuple[int, dict]:
        self._connection.request("POST", "/predict", film)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        self._connection.close()


def load(address: str, films: Sequence[bytes], clients: int, seconds: float) -> tuple[float, np.ndarray, Counter[int]]:
    """(answers a second, the latency of each in seconds, statuses) under so many clients, after a first second."""
    times: list[list[tuple[float, float]]] = [[] for _ in range(clients)]
    statuses: Counter[int] = Counter()
    began = time.perf_counter()
    until = began + 1 + seconds

    def work(number: int) -> None:
        client, row = Client(address), number
        while (asked := time.perf_counter()) < until:
            status, _ = client.ask(films[row % len(films)])
            times[number].append((asked, time.perf_counter()))
            statuses[status] += 1
            row += clients
        client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [(asked, answered) for own in times for asked, answered in own if began + 1 <= answered <= until]
    return len(done) / seconds, np.array([answered - asked for asked, answered in done]), statuses


def mixed(
    address: str, films: Sequence[bytes], expected: Sequence[dict[str, float]], count: int, damaged: Sequence[bytes]
) -> dict[str, int]:
    """What became of `count` requests, good ones and damaged ones, from eight clients at once.

    `lost` were not answered, `wrong` got another film's probabilities (or not their own), `failed` were answered by
    other than 200 or, if they were damaged, 422.
    """
    work: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(count):
        work.put(number)
    found: Counter[str] = Counter()

    def send() -> None:
        client = Client(address)
        while True:
            try:
                number = work.get_nowait()
            except queue.Empty:
                client.close()
                return
            random = np.random.default_rng(number)
            hostile = random.random() < HOSTILE
            row = int(random.integers(len(films)))
            body = films[row]
            if hostile:
                body = damage(random, damaged[number % len(damaged)], list(damaged))
                body = mend_png(body) if random.random() < 0.5 else body
            try:
                status, answer = client.ask(body)
            except (OSError, http.client.HTTPException, ValueError):
                found["lost"] += 1
                client.close()
                continue
            found["answered"] += 1
            if hostile:
                found["damaged and read" if status == 200 else "damaged and refused"] += status in (200, 422)
                found["failed"] += status not in (200, 422)
            elif status != 200:
                found["failed"] += 1
            else:
                given = {each["finding"]: each["probability"] for each in answer["findings"]}
                own = given.keys() == expected[row].keys() and all(
                    abs(given[name] - value) < 1e-5 for name, value in expected[row].items()
                )
                found["right" if own else "wrong"] += 1

    threads = [threading.Thread(target=send) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = ("answered", "lost", "right", "wrong", "failed", "damaged and read", "damaged and refused")
    return {name: found[name] for name in names}


def probabilities_of(classifier: Classifier, films: Sequence[bytes]) -> list[dict[str, float]]:
    """What the Classifier says of each film in this process; no two are alike, so that a wrong pairing is seen."""
    scores = classifier.predict(list(films), probabilities_only=True)
    values = np.stack([score.probabilities for score in scores])
    apart = np.abs(values[:, None] - values[None]).max(-1) + np.eye(len(values))
    assert apart.min() > 2e-5, "two films have the same probabilities"
    return [dict(zip(score.findings, score.probabilities.tolist(), strict=True)) for score in scores]


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints the tables; returns the figures."""
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--films", type=Path)
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--mixed", type=int, default=10_000)
    parser.add_argument("--count", type=int, default=64, help="different films")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        workdir = options.checkpoint
        if workdir is None:
            config = common.base()
            config.data.size = 128
            workdir = save_untrained(config, Path(folder) / "run")
        films = encoded_films(options.films, options.count)
        classifier = Classifier.from_checkpoint(workdir)
        expected = probabilities_of(classifier, films)
        introduce(f"{', '.join(classifier.restored.models)}, {classifier.recipe.size} px, {len(films)} films, loopback")
        results: Results = {"clients": {}}
        rows, began, rounds = [], time.perf_counter(), 0
        while time.perf_counter() < began + options.seconds:
            classifier.predict(films, probabilities_only=True)
            rounds += 1
        rate = rounds * len(films) / (time.perf_counter() - began)
        results["in process"] = rate
        rows.append(["Classifier, in process, batches of 8", f"{rate:.1f}", "", "", ""])
        with service_of(workdir) as address:
            for clients in map(int, options.clients.split(",")):
                rate, latencies, statuses = load(address, films, clients, options.seconds)
                p50, p99 = (float(np.percentile(latencies, q)) * 1000 for q in (50, 99))
                results["clients"][clients] = {"films/s": rate, "p50": p50, "p99": p99, "statuses": dict(statuses)}
                answers = ", ".join(f"{number} of {status}" for status, number in sorted(statuses.items()))
                rows.append([f"service, {clients} clients", f"{rate:.1f}", f"{p50:.0f}", f"{p99:.0f}", answers])
            print(table(["scored by", "films/s", "p50, ms", "p99, ms", "answers"], rows), flush=True)
            if options.mixed:
                began = time.perf_counter()
                found = results["mixed"] = mixed(address, films, expected, options.mixed, films)
                counts = ", ".join(f"{number} {name}" for name, number in found.items())
                print(f"{options.mixed} mixed requests in {time.perf_counter() - began:.0f} s: {counts}")
    return finish(results, options.json)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
