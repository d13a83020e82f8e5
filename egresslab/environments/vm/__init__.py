"""A lab whose nodes are virtual machines with kernels of their own; the network between them and the world outside are
those of the namespaces' lab.

The control plane's node stays a namespace: captures of what passes outside run on it, and they need the world outside
to be on the same kernel.
"""
