"""What a chapter imports: a lab to act on, checks that prove claims with packets, and views of what happens.

A chapter speaks only Kubernetes, and so does everything here: no module may enter a network namespace, read a lab's
files or talk to the datapath other than by exec into an agent's pod.
"""

from egresslab.errors import LabError
from egresslab.lab.session import Lab
from egresslab.lab.waits import Pending


class Skipped(Exception):  # runners of notebooks know an exception of this name as "does not apply here"
    """A chapter found out, while running, that it cannot run here; the message is the reason."""


__all__ = ["Lab", "LabError", "Pending", "Skipped"]
