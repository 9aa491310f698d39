"""What the service's own document says of its API, tried."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema


class Examples:
    """Sends what the document's examples say, and looks whether the answers are as it says."""

    def __init__(self, client: httpx.Client) -> None:
        self._client, self._document = client, client.get("/openapi.json").json()
        assert self._document["openapi"].startswith("3.1")
        self.left = {(method, path) for path, item in self._document["paths"].items() for method in item}

    def __call__(self, method: str, path: str, body: bytes | None = None, **places: str) -> httpx.Response:
        """`places` are ids, which no document can know, or fields; `body` is what is no JSON."""
        operation = self._document["paths"][path][method]
        self.left.discard((method, path))
        parameters = [one for one in operation.get("parameters", []) if one["in"] != "header"]
        given = {one["name"]: first(one) or first(one["schema"]) for one in parameters}
        url = path.format(**{name: str(value) for name, value in (given | places).items()})
        query = {one["name"]: given[one["name"]] for one in parameters if one["in"] == "query" and given[one["name"]]}
        own = {name: value for name, value in places.items() if f"{{{name}}}" not in path}
        media = operation.get("requestBody", {"content": {}})["content"]
        answer = self._client.request(method, url, params=query, **self._body(media, body, own))
        self._check(operation, answer)
        return answer

    def _body(self, media: dict[str, Any], body: bytes | None, own: dict[str, str]) -> dict[str, Any]:
        """The example of a JSON body is its schema's, or made of its fields'."""
        if "application/json" in media:
            schema = media["application/json"]["schema"]
            name = next(one["$ref"] for one in schema.get("anyOf", [schema]) if "$ref" in one).rpartition("/")[2]
            known = self._document["components"]["schemas"][name]
            fields = {name: first(field) for name, field in known["properties"].items() if first(field) is not None}
            given = {name: [value] if name == "inputs" else value for name, value in own.items()}
            return {"json": (first(known) or fields) | given}
        if "application/octet-stream" in media or not media:
            return {"content": body}
        return {"files": {"file": ("stranger.zip", body)}}

    def _check(self, operation: dict[str, Any], answer: httpx.Response) -> None:
        described = operation["responses"].get(str(answer.status_code))
        assert described is not None, (answer.status_code, answer.text)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if kind == "application/json" and answer.content:
            schema = described["content"][kind]["schema"] | {"components": self._document["components"]}
            jsonschema.Draft202012Validator(schema).validate(answer.json())

    def begins(self, path: str, *, told: bool = True, **places: str) -> None:
        """An answer that doesn't end; there is something to tell, or not yet."""
        self.left.discard(("get", path))
        described = self._document["paths"][path]["get"]["responses"]["200"]["content"]
        with self._client.stream("GET", path.format(**places)) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].partition(";")[0] in described
            assert not told or any(b"data: " in chunk for chunk in answer.iter_bytes())


def first(schema: dict[str, Any]) -> Any:
    """The first example."""
    return schema["example"] if "example" in schema else schema.get("examples", [None])[0]
