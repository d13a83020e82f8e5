"""Decisions about egress: which pod leaves through which gateway with which address. No I/O, no clock, no asyncio."""
