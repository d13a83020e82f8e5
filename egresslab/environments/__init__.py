"""Where a lab runs: everything that differs between network namespaces on this machine, VMs and Kind.

A chapter is handed a kubeconfig and speaks Kubernetes; only bringing a cluster up, taking it down and breaking it on
purpose go through `Environment`. This package must never teach a chapter anything that kubectl could do as well.
"""
