"""Labs on Kind: Kubernetes itself, its nodes as containers of Docker's engine, the world outside as one more container.

Docker, kind and helm are programs that the user has; this package only calls them, and each call has a deadline.
"""
