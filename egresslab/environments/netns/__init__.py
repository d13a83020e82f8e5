"""The lab on one machine: nodes, pods and the outside world are network namespaces, containers are host programs.

Nothing here touches the host's own interfaces, routes or firewall, and everything made carries the lab's name and is
recorded before it is made, so that taking a lab down never depends on how it came to its end.
"""
