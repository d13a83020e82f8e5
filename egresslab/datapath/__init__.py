"""The eBPF datapath of an egress gateway: loading, maps, attachment, and what the kernel holds.

Imports nothing of ours but errors. `Datapath` holds maps and programs, `Attachments` puts programs on links.
"""
