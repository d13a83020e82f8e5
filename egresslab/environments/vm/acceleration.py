"""Whether this machine's processor can run machines (KVM), found out by starting one: some hosts offer /dev/kvm and
then fail.

The finding holds until the host is started again.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.records import boot_id
from egresslab.environments.vm.qemu import Acceleration, Hardware, command
from egresslab.environments.vm.store import SystemImage

DEVICE = Path("/dev/kvm")
TRIAL_DEADLINE_S = 20.0
HELLO = b"no root file system"
"""What the kernel's first program says where there is no disk: proof enough that everything before it works."""


def choose(hardware: Hardware, system: SystemImage, memory: Path) -> tuple[Acceleration, str]:
    """KVM where it works, and why; `memory` is a file that remembers the finding."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Acceleration.EMULATION, f"{DEVICE} is missing or not ours to open"
    known = _known(memory)
    works = _trial(replace(hardware, acceleration=Acceleration.KVM), system) if known is None else known
    write_atomically(memory, json.dumps({"boot": boot_id(), "kvm": works}))
    if works:
        return Acceleration.KVM, "KVM works"
    return Acceleration.EMULATION, f"{DEVICE} is there, but a machine does not start with it"


def _known(memory: Path) -> bool | None:
    try:
        found = json.loads(memory.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return bool(found["kvm"]) if found.get("boot") == boot_id() else None


def _trial(hardware: Hardware, system: SystemImage) -> bool:
    words = command("egresslab-trial", hardware, system, ())
    try:
        answer = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return HELLO in answer.stdout
