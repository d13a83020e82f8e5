"""Teach, rehearse and run Kubernetes egress gateways."""

__version__ = "0.1.0"
