"""The server's addresses as an OpenAPI document, for tools that make clients, or try them."""

from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..runtime.protocol import DATATYPES, JSON_LENGTH, MOST_AXES, MOST_PARAMETERS, MOST_TENSORS

__all__ = ["describe_addresses"]

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
PARAMETERS: Schema = {
    "type": "object",
    "maxProperties": MOST_PARAMETERS,
    "additionalProperties": {"anyOf": [TEXT, {"type": "number"}, {"type": "boolean"}]},
}
SHAPE: Schema = {"type": "array", "maxItems": MOST_AXES, "items": {"type": "integer", "minimum": 0}}
DATA: Schema = {"description": "Numbers in the order of rows, flat or nested as the shape."}


def _object(required: Sequence[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "maxItems": MOST_TENSORS, "items": items}


DATATYPE: Schema = {"type": "string", "enum": list(DATATYPES.values())}
TENSOR = _object(
    ("name", "datatype", "shape"), name=TEXT, datatype=DATATYPE, shape=SHAPE, parameters=PARAMETERS, data=DATA
)
ASKED = _object(("name",), name=TEXT, parameters=PARAMETERS)
REQUEST = _object(("inputs",), inputs=_list_of(TENSOR), outputs=_list_of(ASKED), id=TEXT, parameters=PARAMETERS)
RESPONSE = _object(
    ("model_name", "outputs"),
    model_name=TEXT,
    model_version=TEXT,
    id=TEXT,
    outputs=_list_of(TENSOR),
    parameters=PARAMETERS,
)
FORM = _object(
    ("name", "datatype", "shape"),
    name=TEXT,
    datatype=DATATYPE,
    shape={"type": "array", "items": {"type": "integer", "minimum": -1}},
)
FORMS: Schema = {"type": "array", "items": FORM}
MODEL = _object(("name", "platform"), name=TEXT, platform=TEXT, inputs=FORMS, outputs=FORMS)
SERVER = _object(("name", "version", "extensions"), name=TEXT, version=TEXT)
ERROR = _object(("error",), error=TEXT)
FLAG: Schema = {"type": "boolean"}


def _answers(description: str, schema: Schema | None, *refusals: int, kind: str = "application/json") -> Schema:
    """Return the responses of an address: one that is right, and refusals with one sentence."""
    right = {"description": description, "content": {kind: {"schema": schema} if schema else {}}}
    error = {"description": "One sentence.", "content": {"application/json": {"schema": ERROR}}}
    return {"200": right, **{str(code): error for code in refusals}}


def describe_addresses(names: Sequence[str], *, has_token: bool) -> Schema:
    """Return the OpenAPI document of a server with these models."""
    refused = (401,) if has_token else ()
    name = {"in": "path", "name": "name", "required": True, "schema": {"type": "string", "enum": list(names)}}
    version = {"in": "path", "name": "version", "required": True, "schema": {"type": "string", "enum": ["1"]}}
    header = {"in": "header", "name": JSON_LENGTH, "schema": {"type": "integer", "minimum": 0}}
    live = {"get": {"security": [], "responses": _answers("The server lives.", _object(("live",), live=FLAG))}}
    ready_flag = _object(("ready",), ready=FLAG)
    ready = {"get": {"security": [], "responses": _answers("The server is ready.", ready_flag, 503)}}
    paths: dict[str, Schema] = {
        "/v2": {"get": {"responses": _answers("What serves.", SERVER, *refused)}},
        "/v2/health/live": live,
        "/v2/health/ready": ready,
        "/metrics": {"get": {"responses": _answers("Counts for Prometheus.", None, *refused, kind="text/plain")}},
    }
    for path, places in (("", [name]), ("/versions/{version}", [name, version])):
        path = f"/v2/models/{{name}}{path}"
        paths[path] = {"parameters": places, "get": {"responses": _answers("The model.", MODEL, 404, *refused)}}
        about = _answers("The model is ready.", ready_flag, 404, 503, *refused)
        paths[f"{path}/ready"] = {"parameters": places, "get": {"responses": about}}
        body = {"required": True, "content": {"application/json": {"schema": REQUEST}}}
        codes = (400, 404, 408, 413, 415, 500, 503, 504, *refused)
        post: Schema = {
            "parameters": [header],
            "requestBody": body,
            "responses": _answers("Outputs.", RESPONSE, *codes),
        }
        post["responses"]["200"]["content"]["application/octet-stream"] = {}
        paths[f"{path}/infer"] = {"parameters": places, "post": post}
    document: Schema = {
        "openapi": "3.0.3",
        "info": {"title": "offramp: the Open Inference Protocol", "version": __version__},
        "paths": paths,
    }
    if has_token:
        document["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        document["security"] = [{"token": []}]
    return document
