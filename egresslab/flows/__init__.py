"""What agents tell of flows, read, chosen from, merged and written, as users of `hubble observe` expect it.

It knows agents only by the lines that they write (docs/contracts.md, "Flow events"), and never opens a kernel's map.
"""
