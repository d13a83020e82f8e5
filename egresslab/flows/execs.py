"""A command in a container and its output line by line: exec over WebSocket (remotecommand protocol v4)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import aiohttp
import orjson
from kubernetes.aio.stream import WsApiClient

from egresslab.api.connection import Api, Unreachable
from egresslab.api.resources import PODS
from egresslab.errors import ClusterError

STDOUT, STDERR, STATUS = 1, 2, 3
"""Channel numbers of the protocol."""
HEARTBEAT_S = 20.0
STDERR_KEPT = 2_000


async def output_lines(
    api: Api, namespace: str, pod: str, container: str, command: Sequence[str]
) -> AsyncIterator[bytes]:
    """Every line that the command writes to its standard output, until it ends.

    Raises `ClusterError` with what it wrote to standard error when it fails, `Unreachable` when there is no way there.
    The command ends with the iteration.
    """
    shown = f"{namespace}/{pod}: {' '.join(command)}"
    client = WsApiClient(await api.official(), heartbeat=HEARTBEAT_S)
    query = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)]
    request = client.param_serialize(
        method="GET",
        resource_path=PODS.path(namespace, pod, "exec"),
        query_params=query,
        header_params={},
        auth_settings=["BearerToken"],
    )
    rest, said = b"", b""
    try:
        answer = await client.call_api(*await request, _preload_content=False)
        async with answer.response as socket:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    continue
                channel, data = message.data[0], message.data[1:]
                if channel == STDOUT:
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        yield line
                elif channel == STDERR:
                    said = (said + data)[-STDERR_KEPT:]
                elif channel == STATUS:
                    _judge(data, said, shown)
                    return
        raise Unreachable("exec broke off", object=shown)
    except aiohttp.WSServerHandshakeError as error:
        raise ClusterError(f"exec was refused: {error.message or error.status}", object=shown) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(f"exec did not start or broke off: {error!r}", object=shown) from error
    finally:
        await client.close()


def _judge(status: bytes, said: bytes, shown: str) -> None:
    """Raise if the Status that closes an exec tells of a failure."""
    body = orjson.loads(status) if status else {}
    if body.get("status") != "Success":
        words = said.decode(errors="replace").strip() or body.get("message") or "failed"
        raise ClusterError(words, object=shown)
