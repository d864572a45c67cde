"""The control plane: objects in, ``compile()``, then a snapshot, Envoy config and statuses out.

May not enter: anything of the request path. ``compile`` and what it calls do no I/O; Kubernetes, files and gRPC live at
the edges.
"""
