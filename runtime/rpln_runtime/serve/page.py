"""The page of the endpoints at /docs. It is made of the OpenAPI document and loads nothing from elsewhere."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

_STYLE: Final = "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}pre{overflow:auto}"


def page(document: Mapping[str, Any]) -> str:
    """Return the HTML of an OpenAPI document: each endpoint with its meaning and, where it has a body, an example."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    rows = "\n".join(_rows(document["paths"]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f'<h1>{title}</h1><p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>\n{rows}</html>'
    )


def _rows(paths: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
            if "requestBody" in operation:
                body = json.dumps(operation["requestBody"]["content"]["application/json"]["example"], indent=1)
                yield f"<pre>{escape(body)}</pre>"
