"""The node of the embedded cluster: a kubelet whose pods are network namespaces and whose containers are host programs.

It is one process in the node's network namespace, started with `python -m egresslab.cluster.node --config FILE`. It may
be killed at any time: containers, addresses and links live on in the kernel and in files, and the next process takes
them over.
"""
