"""Quantities of resources: `100m`, `1.5Gi`, `2e3` (Kubernetes API reference, "Quantity").

Own, because importing the official client for it took a fifth of the control plane's start.
"""

from __future__ import annotations

import re
from decimal import Decimal

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)")
_DECIMAL = {suffix: Decimal(1000) ** power for power, suffix in enumerate("num kMGTPE", start=-3)}
_BINARY = {f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)}
_FACTORS = {**_DECIMAL, **_BINARY}


def parse_quantity(quantity: str | float | Decimal) -> Decimal:
    """Its value; raises ValueError for what is no quantity."""
    if isinstance(quantity, int | float | Decimal):
        return Decimal(quantity)
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity")
    number, exponent, suffix = match.groups()
    value = Decimal(number + (exponent or ""))
    return value * _FACTORS[suffix] if suffix else value
