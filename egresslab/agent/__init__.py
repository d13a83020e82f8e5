"""The agent of one node: decisions become map entries, pods and interfaces get their programs, addresses are published.

It holds no state of its own: what it needs it reads from the API and from the kernel, so it may be killed at any time.
"""
