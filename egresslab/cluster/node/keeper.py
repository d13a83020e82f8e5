"""Keeps a container's standard input or terminal open, whoever comes and goes: run as a script, standard library only.

Only containers that ask for `stdin` or `tty` have one. It holds the terminal's master (whose output it appends to the
log) or the writing end of the input pipe, and takes frames from a unix socket: one letter, four bytes of length,
payload. `i` is input, `r` is a new size ("ROWS COLUMNS"), `e` is the end of input.

Arguments: descriptor of the listening socket, descriptor of the terminal or pipe, path of the log or "-".
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import sys
import termios

HEADER = struct.Struct(">cI")
END_OF_INPUT = b"\x04"


def handle(kind: bytes, payload: bytes, target: int, terminal: bool) -> bool:
    """Carry out one frame; False when the input has ended for good."""
    if kind == b"i":
        view = memoryview(payload)
        while view:
            view = view[os.write(target, view) :]
    elif kind == b"r" and terminal:
        rows, columns = map(int, payload.split())
        fcntl.ioctl(target, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    elif kind == b"e":
        if not terminal:
            return False
        os.write(target, END_OF_INPUT)
    return True


def serve(listener: socket.socket, target: int, log: int | None) -> None:
    """Until the container's side is closed, or its input has been ended."""
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    poller.register(target, select.POLLIN if log is not None else 0)
    clients: dict[int, tuple[socket.socket, bytearray]] = {}
    while True:
        for descriptor, events in poller.poll():
            if descriptor == target:
                if log is None:
                    return
                try:
                    data = os.read(target, 65536)
                except OSError:
                    return
                if not data:
                    return
                os.write(log, data)
            elif descriptor == listener.fileno():
                client, _ = listener.accept()
                clients[client.fileno()] = (client, bytearray())
                poller.register(client, select.POLLIN)
            elif descriptor in clients:
                client, buffer = clients[descriptor]
                data = client.recv(65536) if events & select.POLLIN else b""
                buffer += data
                while len(buffer) >= HEADER.size:
                    kind, length = HEADER.unpack_from(buffer)
                    if len(buffer) < HEADER.size + length:
                        break
                    payload = bytes(buffer[HEADER.size : HEADER.size + length])
                    del buffer[: HEADER.size + length]
                    if not handle(kind, payload, target, log is not None):
                        return
                if not data:
                    poller.unregister(descriptor)
                    client.close()
                    del clients[descriptor]


def main() -> None:
    """Run until there is nothing left to keep."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    target = int(sys.argv[2])
    log = None if sys.argv[3] == "-" else os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        serve(listener, target, log)
    except (BrokenPipeError, OSError) as error:
        sys.exit(f"the container's side failed: {error}")


if __name__ == "__main__":
    main()
