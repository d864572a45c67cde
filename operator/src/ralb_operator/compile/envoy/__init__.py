"""Envoy config as pure functions: settings in, serialized resources out.

May not enter: decisions about objects (they are made in ``resolve``) and anything that talks to Envoy.
Listeners, filters and clusters are typed with ``envoy-data-plane``; endpoints, which change often, with ``xds-protos``.
"""
