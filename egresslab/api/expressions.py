"""The CEL library (Common Expression Language) without its interactive shell.

Its package imports that shell, and with it libraries for terminals that take as long to import as the rest of the API
server; whoever imports `cel` from here has the evaluator alone.
"""

from __future__ import annotations

import sys
from types import ModuleType

_SHELL = "cel.cli"
_FIRST = "cel" not in sys.modules
if _FIRST:
    sys.modules[_SHELL] = ModuleType(_SHELL)

import cel  # noqa: E402 - with a stand-in for its shell

if _FIRST:
    # Whoever wants the shell itself imports it as ever.
    del sys.modules[_SHELL], cel.cli

__all__ = ["cel"]
