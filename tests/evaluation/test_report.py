"""What an evaluation leaves in a workdir: figures, thresholds, localisation, and one page that fetches nothing."""

import json
from html.parser import HTMLParser
from pathlib import Path

from ml_collections import ConfigDict

from chexjax.data.films import open_films
from chexjax.data.sources.nih import read_entries
from chexjax.evaluation.localization import CENTRE, RANDOM, boxed_cases, choose_examples
from chexjax.findings import FINDINGS
from chexjax.training import loop


def test_a_run_ends_with_a_report_that_fetches_nothing(
    small_dml: ConfigDict, phantom_folder: Path, tmp_path: Path
) -> None:
    small_dml.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": str(tmp_path / "cache")})
    small_dml.data.val_fraction = 0.3
    small_dml.max_steps = 2
    loop.train(small_dml, tmp_path / "run")
    predictions = loop.evaluate(small_dml, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())

    entries = read_entries(phantom_folder)
    truth = {(name, box.finding) for name in predictions.films.names for box in entries[name].boxes}
    cases = boxed_cases(open_films(small_dml.data).source("test"), FINDINGS)
    assert {(predictions.films.names[case.film], case.finding) for case in cases} == truth
    assert found["localization"]["cases"] == len(truth) > 0
    assert set(found["localization"]["groups"]["all"]["sources"]) == {"net1", "net2", "ensemble", RANDOM, CENTRE}
    assert set(found["networks"]["net1"]["thresholds"]) == set(FINDINGS)
    assert {"jax", "flax", "chexjax", "devices"} <= set(found["versions"])

    fetched, pictures = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            assert tag not in ("script", "link", "iframe")
            for key, value in attrs:
                if key in ("src", "href"):
                    (pictures if value.startswith("data:") else fetched).append(value)

    Reader().feed((tmp_path / "run" / "report.html").read_text())
    assert all(link.startswith("#") for link in fetched)
    assert len(pictures) == len(choose_examples(predictions, FINDINGS))
    assert not list((tmp_path / "run").glob("*.partial"))
