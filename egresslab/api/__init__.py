"""Kubernetes as our parts see it: object types, selectors, CRDs, schema validation, and the way to the API server."""
