"""Checks: claims of a chapter, compared with packets.

A notebook names a check by its id; what is compared, how long to wait and which hints help stands here, where it is
tested on its own. A check must never take the controller's word for what the network does.
"""
