"""The vocabulary every other room speaks: objects, header names, error bodies.

May not enter: anything that does I/O, decides, or knows Kubernetes, Envoy or gRPC. Imports nothing of ours but the
generated protocol code in ``ralb.v1``.
"""

__version__ = "0.1.0"
GROUP = "ralb.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
