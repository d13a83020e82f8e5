"""Starts a program in a network namespace: `python -m egresslab.cluster.inside NAMESPACE PROGRAM…`.

It becomes the program, so that whoever watches over this process watches over that one. Nothing else is changed for it.
"""

from __future__ import annotations

import os
import sys

from pyroute2 import netns

if __name__ == "__main__":
    _, namespace, *command = sys.argv
    netns.setns(namespace)
    os.execv(command[0], command)
