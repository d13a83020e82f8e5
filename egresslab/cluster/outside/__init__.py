"""The world outside the cluster: servers that say whom they see, and a firewall with a list of who may come in.

It is what proves or disproves everything else, so it must never learn from the cluster which address it *should* see.
"""
