"""The embedded API server: as little of Kubernetes' as the labs need, and exact where it exists.

A request passes through `server` (HTTP), `authentication`, `authorization`, `requests` (what is asked for), `verbs`
(what is done) and `store` (what is kept); kinds are declarations in `declarations`. What is not served is said plainly.
"""
