"""The request path: understand, decide, place, learn.

May not enter: Kubernetes, YAML, anything of the operator. What it knows of the world comes as a snapshot, as the pods'
metrics and as Envoy's access log. The stages between are plain functions over the types in ``types``.
"""
