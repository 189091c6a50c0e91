"""Scoring films on a CPU: the Classifier, its ONNX file under onnxruntime in float32 and in 8 bits, and torch.

    python -m benchmarks.exported [--model=resnet18] [--size=224] [--batch=8] [--rounds=10] [--json=FILE]

All have the same weights and take uint8 films of the network's own size, so nothing is shrunk; torch runs eagerly under
`inference_mode`, channels last, and gives logits alone, where the ONNX files give maps as well. Every contestant has as
many threads as there are processors. The 8 bits have their ranges from the very films that are scored.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks.bulk import MEAN, STD, classifier_of
from benchmarks.contest import Results, finish, introduce, parser_of, ratio, table, take_turns
from chexjax.data.images import JudgedFilm
from chexjax.data.verdict import Verdict
from chexjax.export.onnx_file import to_int8, to_onnx
from chexjax.predict.drawing import cores
from tests.torch_networks import create_torch_network, shake


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    """On as many threads as there are processors."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints the table; returns the ratios of times to torch's."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(argv)
    introduce(f"{options.model}, {options.size} px, batches of {options.batch}")
    torch.set_num_threads(cores())
    network = shake(create_torch_network(options.model, channels=1)).eval().to(memory_format=torch.channels_last)
    classifier = classifier_of(options.model, network, options.size, options.batch)
    films = np.random.default_rng(0).integers(0, 256, (options.batch, options.size, options.size), np.uint8)
    ready = [classifier.prepare(str(k), JudgedFilm(film, Verdict())) for k, film in enumerate(films)]
    exact = to_onnx(classifier.restored)
    coarse = to_int8(exact, films)
    sessions = {"onnxruntime, float32": session_of(exact), "onnxruntime, 8 bits": session_of(coarse)}

    def with_torch() -> np.ndarray:
        with torch.inference_mode():
            x = (torch.from_numpy(films)[:, None].float() / 255 - MEAN) / STD
            return torch.sigmoid(network(x.contiguous(memory_format=torch.channels_last))).numpy()

    def with_session(session: onnxruntime.InferenceSession) -> np.ndarray:
        return session.run(["probabilities", "maps"], {"films": films})[0]

    runs: dict[str, Callable[[], Any]] = {
        "torch": with_torch,
        "Classifier": lambda: np.stack([scores.probabilities for scores in classifier.score(ready)]),
    }
    runs |= {name: lambda session=session: with_session(session) for name, session in sessions.items()}
    truth = with_torch()
    differences = {name: float(np.abs(run() - truth).max()) for name, run in runs.items()}
    times = take_turns(runs, options.rounds)
    ratios = {name: ratio(times, name, "torch") for name in runs}
    rows = [
        [name, f"{options.batch / float(np.median(times[name])):.1f}", f"{ratios[name]['medians']:.2f}",
         f"{ratios[name]['best']:.2f}", f"{differences[name]:.1e}"]
        for name in runs
    ]  # fmt: skip
    print(table(["scored by", "films/s", "time over torch's", "at best", "probabilities differ by"], rows))
    megabytes = {"float32": len(exact) / 1e6, "8 bits": len(coarse) / 1e6}
    print(", ".join(f"{name}: {size:.1f} MB" for name, size in megabytes.items()))
    return finish({"ratios": ratios, "differences": differences, "megabytes": megabytes}, options.json)


if __name__ == "__main__":
    main()
