"""The web page to drop a film on, and the description of the routes: each is one file and fetches nothing."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from chexjax.findings import RADIOLOGY
from chexjax.templates import render

_ABSENT: Final[dict[str, Any]] = {"description": "", "requestBody": None, "parameters": ()}


def film_page(findings: Sequence[str]) -> tuple[str, str]:
    """The page, and the Content-Security-Policy under which it may be shown."""
    about = {finding: RADIOLOGY[finding] for finding in findings if finding in RADIOLOGY}
    return _page("serve.html", about=about)


def api_page(description: Mapping[str, Any]) -> tuple[str, str]:
    """OpenAPI's description of the routes as a page, and its Content-Security-Policy."""
    routes = [
        {"method": method.upper(), "path": path, **_ABSENT, **operation}
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]
    schemas = {
        name: {
            "about": schema.get("description", ""),
            "fields": {field: _kind_of(about) for field, about in schema.get("properties", {}).items()},
        }
        for name, schema in description.get("components", {}).get("schemas", {}).items()
        if not name.startswith(("HTTPValidation", "Validation"))
    }
    return _page("serve_api.html", routes=routes, schemas=schemas, about=description["info"])


def _kind_of(schema: Mapping[str, Any]) -> str:
    """`list of Box, or null` for a field's schema."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return ", or ".join(map(_kind_of, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_kind_of(schema['items'])}"
    return str(schema.get("type", "anything"))


def _page(template: str, **values: Any) -> tuple[str, str]:
    """No other script or style than the page's own runs, whatever a film is called."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return render(template, nonce=nonce, **values), policy
