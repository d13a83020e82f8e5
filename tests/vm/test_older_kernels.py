"""What older kernels say differently from the one that the tests usually run on."""

from __future__ import annotations

import errno
import os

import pytest

from egresslab.cluster.node import processes
from egresslab.cluster.node.processes import Identity
from egresslab.environments.netns import records
from egresslab.environments.netns.records import ProcessRecord


@pytest.mark.parametrize("code", [errno.ESRCH, errno.EINVAL])
async def test_a_process_that_was_reaped_is_gone_however_the_kernel_says_so(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert processes.open_process(Identity(1, 0)) is None
    await processes.wait_gone(Identity(1, 0))
    assert records.open_process(ProcessRecord("x", 1, 0, records.boot_id(), [], 0.0)) is None


def test_any_other_refusal_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        processes.open_process(Identity(1, 0))
