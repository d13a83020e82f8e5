"""The cluster-wide controller: what no single node can know or say is found and said here, by one copy at a time.

Forwarding never depends on it: agents decide and program alone, so it may be away for as long as it likes.
"""
