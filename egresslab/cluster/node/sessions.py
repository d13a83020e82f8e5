"""What exec and attach do between a client's channels and a container."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

from egresslab.api.resources import Object
from egresslab.cluster.node.containers import Container
from egresslab.cluster.node.entering import DRAIN_S, CannotExecute, Execution, enter, read_some
from egresslab.cluster.node.keeper import HEADER
from egresslab.cluster.node.streams import Channel, Input, Resize, Streams, exit_status, failure


async def execute(
    streams: Streams,
    container: Container,
    command: Sequence[str],
    *,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
) -> None:
    """Run a command for a client; it is killed when the client goes away."""
    try:
        execution = enter(container, command, stdin=stdin, stdout=stdout, stderr=stderr and not tty, terminal=tty)
    except CannotExecute as error:
        await streams.finish(failure(f"Internal error occurred: error executing command in container: {error.message}"))
        return
    try:
        await streams.finish(await _converse(streams, execution))
    finally:
        execution.close()


async def _converse(streams: Streams, execution: Execution) -> Object:
    ended = asyncio.create_task(execution.wait(), name="end of the command")
    hearing = asyncio.create_task(_hear(streams, execution), name="input of the command")
    pumps = [
        asyncio.create_task(_pump(streams, channel, number), name=f"{channel.name} of the command")
        for channel, number in ((Channel.STDOUT, execution.stdout), (Channel.STDERR, execution.stderr))
        if number is not None
    ]
    try:
        await asyncio.wait({ended, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            execution.kill()
        code = await ended
        if pumps:
            await asyncio.wait(pumps, timeout=DRAIN_S)
        return exit_status(code)
    finally:
        tasks = (ended, hearing, *pumps)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(streams: Streams, channel: Channel, descriptor: int) -> None:
    while data := await read_some(descriptor):
        await streams.send(channel, data)


async def _hear(streams: Streams, execution: Execution) -> None:
    """Pass input on; returns when the client has gone."""
    async for message in streams.receive():
        if isinstance(message, Resize):
            execution.resize(message.columns, message.rows)
        elif not message.data:
            execution.close_stdin()
        elif execution.stdin is not None:
            try:
                await _write(execution.stdin, message.data)
            except OSError:
                execution.close_stdin()


async def _write(descriptor: int, data: bytes) -> None:
    """All bytes into a pipe or terminal, as fast as the other side takes them."""
    os.set_blocking(descriptor, False)
    view = memoryview(data)
    loop = asyncio.get_running_loop()
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_writer(descriptor, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_writer(descriptor)


async def attach(streams: Streams, container: Container, *, stdin: bool) -> None:
    """Join a container's own output and, where it has any, input, until it ends or the client goes away."""
    # Whoever is the first at an interactive container sees what it said while nobody was there.
    begin = 0 if container.input_socket.exists() and not container.attached else container.log.size
    container.attached = True
    keeper: socket.socket | None = None
    if stdin and container.input_socket.exists():
        keeper = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        keeper.setblocking(False)
        folder = os.open(container.directory, os.O_PATH | os.O_CLOEXEC)
        try:
            keeper.connect(f"/proc/self/fd/{folder}/{container.input_socket.name}")
        except OSError:
            keeper.close()
            keeper = None
        finally:
            os.close(folder)
    output = asyncio.create_task(_show(streams, container, begin), name="output of the container")
    hearing = asyncio.create_task(_feed(streams, container, keeper), name="input of the container")
    try:
        await asyncio.wait({output, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if output.done():
            exit = await container.exit()
            await streams.finish(exit_status(exit.code))
        elif keeper is not None and container.record.stdin_once:
            await _frame(keeper, b"e", b"")
    finally:
        for task in (output, hearing):
            task.cancel()
        await asyncio.gather(output, hearing, return_exceptions=True)
        if keeper is not None:
            keeper.close()


async def _show(streams: Streams, container: Container, begin: int) -> None:
    async for block in container.log.follow(begin):
        await streams.send(Channel.STDOUT, block)


async def _feed(streams: Streams, container: Container, keeper: socket.socket | None) -> None:
    async for message in streams.receive():
        if keeper is None:
            continue
        if isinstance(message, Resize):
            await _frame(keeper, b"r", f"{message.rows} {message.columns}".encode())
        elif isinstance(message, Input) and message.data:
            await _frame(keeper, b"i", message.data)
        elif container.record.stdin_once or container.record.tty:
            await _frame(keeper, b"e", b"")


async def _frame(keeper: socket.socket, kind: bytes, payload: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(keeper, HEADER.pack(kind, len(payload)) + payload)
