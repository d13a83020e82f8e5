"""Scheduler and workload controllers: what makes the objects in the API server come true on nodes."""
