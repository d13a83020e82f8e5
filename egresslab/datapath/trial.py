"""One packet through one program, without a wire: `BPF_PROG_TEST_RUN` (Documentation/bpf/bpf_prog_run.rst).

What the program looks up is the real maps of its datapath, and what it writes stays written: a trial on a live node
opens a flow as a packet would. Redirects are decided and not carried out. Devices and routes are those of the namespace
that the calling process is in.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egresslab.datapath.libbpf import Libbpf
from egresslab.datapath.values import REASONS, Program, Reason, Verdict
from egresslab.errors import DatapathError

if TYPE_CHECKING:
    from egresslab.datapath.datapath import Datapath

CONTEXT_SIZE = 192
"""sizeof(struct __sk_buff), linux/bpf.h."""
MARK, IFINDEX, CB, GSO_SIZE = 8, 40, 48, 176
MARK_TRIAL = 0x00E6_0001
"""Packets with this mark are neither counted nor recorded, and say what they were decided to be."""
TRIAL_VERDICT = 0x8000_0000
ROOM = 256
"""How much longer than the input an answer may be."""
VERDICTS = {0: Verdict.PASS, 2: Verdict.DROP, 7: Verdict.REDIRECT, 0xFFFFFFFF: Verdict.PASS}


class _Options(ctypes.Structure):
    """`struct bpf_test_run_opts` (bpf/bpf.h)."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the program decided, the frame as it left it, its mark, and the nanoseconds that one run took on average.
    `reason`: why, for a frame with MARK_TRIAL; None for others, which are counted instead."""

    verdict: Verdict
    frame: bytes
    mark: int
    nanoseconds: int
    reason: Reason | None = None


def test_run(
    datapath: Datapath, program: Program, frame: bytes, *, ifindex: int = 0, mark: int = 0, repeat: int = 1
) -> Outcome:
    """Give `frame` (from the Ethernet header on) to `program` as if it had met it on link `ifindex`; see `run`."""
    fd = datapath.program_fd(program)
    return run(datapath.libbpf, fd, program, frame, ifindex=ifindex, mark=mark, repeat=repeat)


def run(
    libbpf: Libbpf, fd: int, program: Program, frame: bytes, *, ifindex: int = 0, mark: int = 0, repeat: int = 1
) -> Outcome:
    """Give `frame` to the program behind `fd`.

    With `repeat`, the same buffer runs again and again, as the program left it. Raises DatapathError when the kernel
    refuses the frame, as it does below the length of an Ethernet header.
    """
    context_in = bytearray(CONTEXT_SIZE)
    struct.pack_into("=I", context_in, MARK, mark)
    struct.pack_into("=I", context_in, IFINDEX, ifindex)
    context = ctypes.create_string_buffer(bytes(context_in), CONTEXT_SIZE)
    context_out = ctypes.create_string_buffer(CONTEXT_SIZE)
    data = ctypes.create_string_buffer(frame, len(frame))
    out = ctypes.create_string_buffer(len(frame) + ROOM)
    options = _Options(
        sz=ctypes.sizeof(_Options),
        data_in=ctypes.cast(data, ctypes.c_void_p),
        data_out=ctypes.cast(out, ctypes.c_void_p),
        data_size_in=len(frame),
        data_size_out=len(out),
        ctx_in=ctypes.cast(context, ctypes.c_void_p),
        ctx_out=ctypes.cast(context_out, ctypes.c_void_p),
        ctx_size_in=CONTEXT_SIZE,
        ctx_size_out=CONTEXT_SIZE,
        repeat=repeat,
    )
    result = libbpf.library.bpf_prog_test_run_opts(fd, ctypes.byref(options))
    if result:
        raise libbpf.failure("the kernel refused the trial", result, object=program.name.lower())
    verdict = VERDICTS.get(options.retval)
    if verdict is None:
        raise DatapathError("a verdict that none of our programs gives", object=program.name, value=options.retval)
    told = struct.unpack_from("=I", context_out.raw, CB)[0]
    return Outcome(
        verdict,
        out.raw[: options.data_size_out],
        struct.unpack_from("=I", context_out.raw, MARK)[0],
        options.duration,
        Reason(told % REASONS) if told & TRIAL_VERDICT else None,
    )


test_run.__test__ = False  # type: ignore[attr-defined]
