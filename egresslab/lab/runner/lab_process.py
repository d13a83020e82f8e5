"""Bringing a runner's lab up and taking it down, in child processes that a cancellation ends in good order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from egresslab.errors import EnvironmentFailure
from egresslab.lab import attachment
from egresslab.lab.attachment import Attachment

DOWN_TIMEOUT_S = 60.0
GRACE_S = 10.0
"""For a child that was asked to stop: `up` takes down what it has half made."""

ADVICE = "try:"
"""How the line begins that tells a person what to do next; a runner does that itself."""

Say = Callable[[str], None]


async def up(environment: str, lab: str, *, timeout_s: float, say: Say, topology: str = "") -> Attachment:
    """Bring a lab up, or attach to one that is; raises `EnvironmentFailure`, or `LabError` without a kubeconfig."""
    if environment == attachment.OUTSIDE_CLUSTER:
        return Attachment(environment, lab, attachment.kubeconfig_of_variable(), created=False)
    lines = await _run(attachment.command("up", environment, lab, topology=topology), timeout_s, say)
    path = await _run(attachment.command("kubeconfig", environment, lab), timeout_s, lambda _: None)
    return Attachment(
        environment, lab, Path(path[-1]), created=not any(attachment.UP_ALREADY in line for line in lines)
    )


async def attached(environment: str, lab: str, *, timeout_s: float, say: Say) -> Attachment:
    """A lab that is up, without the rights that bringing one up takes; else as `up`."""
    if environment == attachment.OUTSIDE_CLUSTER:
        return Attachment(environment, lab, attachment.kubeconfig_of_variable(), created=False)
    # In a thread, for it waits for a child and for the API server.
    path = await asyncio.to_thread(attachment.running, environment, lab)
    if path is not None:
        return Attachment(environment, lab, path, created=False)
    return await up(environment, lab, timeout_s=timeout_s, say=say)


async def down(environment: str, lab: str, *, say: Say) -> None:
    """Take a lab down; raises `EnvironmentFailure` when that fails."""
    await _run(attachment.command("down", environment, lab), DOWN_TIMEOUT_S, say)


async def _run(words: Sequence[str], timeout_s: float, say: Say) -> list[str]:
    shown = attachment.shown(words)
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            async for line in process.stdout:
                lines.append(line.decode(errors="replace").rstrip())
                if not lines[-1].startswith(ADVICE):
                    say(lines[-1])
            await process.wait()
    except TimeoutError as error:
        raise EnvironmentFailure(f"not done after {timeout_s:g} s", object=shown, fix=attachment.DOCTOR) from error
    finally:
        if process.returncode is None:
            await asyncio.shield(_stop(process))
    if process.returncode:
        message = "\n".join(lines) or "failed without a word"
        raise EnvironmentFailure(message, object=shown, fix=attachment.DOCTOR)
    return lines


async def _stop(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
