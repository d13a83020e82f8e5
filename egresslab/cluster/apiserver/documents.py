"""Bodies in and out: which format a client sends and which it wants (Kubernetes API concepts, "Resource
representation").

JSON, YAML and protobuf are read; JSON is written, as objects, as tables or as metadata alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson
import yaml
from starlette.responses import Response

from egresslab.cluster.apiserver import protobuf, status

JSON = "application/json"
YAML = "application/yaml"
APPLY = "application/apply-patch+yaml"
PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
)


class Shape(Enum):
    """What a client wants an object or list as."""

    OBJECT = ""
    TABLE = "Table"
    METADATA = "PartialObjectMetadata"
    METADATA_LIST = "PartialObjectMetadataList"
    DISCOVERY = "APIGroupDiscoveryList"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The first acceptable offer of an Accept header."""

    shape: Shape
    version: str = ""


def wanted(accept: str, *shapes: Shape) -> Wanted:
    """Choose by the client's order among JSON as it is and JSON as one of `shapes`; raises 406 for neither."""
    for offer in (accept or JSON).split(","):
        media, *rest = (part.strip() for part in offer.split(";"))
        parameters = dict(part.split("=", 1) for part in rest if "=" in part)
        if media not in (JSON, "*/*", "application/*"):
            continue
        name = parameters.get("as", "")
        if not name:
            return Wanted(Shape.OBJECT)
        if any(shape.value == name for shape in shapes):
            return Wanted(Shape(name), parameters.get("v", ""))
    raise status.not_acceptable()


def read(body: bytes, content_type: str) -> Any:
    """Decode a body; raises 400 for one that is not what it says and 415 for a format that we do not read."""
    media = content_type.partition(";")[0].strip().lower()
    if media == protobuf.MEDIA:
        try:
            return protobuf.decode(body)
        except (protobuf.ProtobufError, UnicodeDecodeError) as error:
            raise status.bad_request(f"error decoding protobuf: {error}") from error
    if media in (YAML, APPLY):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            try:
                return _plain(yaml.load(body, Loader=_LOADER))
            except yaml.YAMLError as error:
                raise status.bad_request(f"error decoding YAML: {error}") from error
    if media in ("", JSON, "*/*") or media in PATCHES:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise status.bad_request(f"couldn't get version/kind; json parse error: {error}") from error
    raise status.unsupported_media_type(media, (JSON, YAML, protobuf.MEDIA))


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _plain(value: Any) -> Any:
    """YAML's dates and non-text keys as JSON has them."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise status.bad_request(f"error decoding YAML: {value} does not fit into 64 bits")
    return value if value is None or isinstance(value, str | int | float) else value.isoformat()


def answer(content: Any, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; bytes are sent as they are."""
    data = content if isinstance(content, bytes) else orjson.dumps(content)
    return Response(data, code, {"Cache-Control": "no-cache, private", **(headers or {})}, JSON)
