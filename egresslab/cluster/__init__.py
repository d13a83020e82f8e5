"""The embedded cluster: as little Kubernetes as chapters and tutorials need, each part exact."""
