"""Envoy config as pure functions: settings in, xDS resources out.

May not enter: decisions about objects (they are made in ``resolve``) and anything that talks to Envoy.
Listeners, filters and what clusters have in common are typed with ``envoy-data-plane``; endpoints, and what differs from
cluster to cluster, are filled in with ``xds-protos``, which is a thousand times faster. Everything is cached by content.
"""
