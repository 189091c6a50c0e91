"""Who may ask; and what the logs say of it."""

import logging

import httpx
import pytest

from chexjax.predict import Classifier
from chexjax.serve.guard import kind_and_line
from chexjax.serve.service import Limits
from tests.dicom_files import SECRET
from tests.serve.conftest import encoded, film_of, serving

TOKEN = "0123456789abcdef0123"


def test_a_token_is_needed_for_all_but_the_page_and_the_probes(classifier: Classifier) -> None:
    with serving(classifier, Limits(), TOKEN) as (client, _):
        for path in ("/", "/healthz", "/healthz/live", "/healthz/ready"):
            assert client.get(path).status_code == 200
        for path in ("/metrics", "/docs", "/openapi.json", "/else", "/predict", "/healthz/"):
            response = client.get(path)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), path
        film = {"content": encoded(film_of(0))}
        for given in ("", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", "Basic x", "Bearer \xe4"):
            headers = {"authorization": given.encode("latin-1")}
            assert client.post("/predict", headers=headers, **film).status_code == 401, given
        for given in (f"Bearer {TOKEN}", f"bearer  {TOKEN}"):
            assert client.post("/predict", headers={"authorization": given}, **film).status_code == 200
        # With a token other names than this machine's are served: a proxy gives its own.
        headers = {"authorization": f"Bearer {TOKEN}", "host": "films.example"}
        assert client.post("/predict", headers=headers, **film).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:99", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("LOCALHOST", 200),
     ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example:80", 421), ("[", 421)],
)  # fmt: skip
def test_without_a_token_it_answers_to_this_machines_names_alone(host: str, status: int, client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:80", 200), ("http://localhost:81", 403), ("http://evil.example", 403), ("null", 403),
     ("https://localhost:80", 200)],  # a proxy in front that encrypts
)  # fmt: skip
def test_pages_of_other_sites_are_not_answered(origin: str, status: int, client: httpx.Client) -> None:
    headers = {"host": "localhost:80", "origin": origin}
    assert client.post("/predict", content=encoded(film_of(0)), headers=headers).status_code == status


def test_logs_hold_the_route_and_not_what_was_sent(client: httpx.Client, caplog) -> None:
    with caplog.at_level(logging.INFO, "chexjax.serve"):
        client.post(f"/predict?name={SECRET}", content=encoded(film_of(0)), headers={"user-agent": SECRET})
        client.post("/predict", files={"file": (SECRET, b"nothing")})
        client.request("LASTNAMINGTON", f"/{SECRET}")
        client.get("/healthz")
    lines = [record.getMessage().rsplit(" ", 2)[0] for record in caplog.records if record.name == "chexjax.serve"]
    assert lines == ["POST /predict 200", "POST /predict 422", "other other 404"]
    assert SECRET not in caplog.text


def test_an_error_is_told_by_its_kind_and_place() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        where = kind_and_line(error)
    assert where.startswith("ValueError at test_guard.py:")
    assert SECRET not in where
