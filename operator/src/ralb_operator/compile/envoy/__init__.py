"""Envoy config as pure functions: settings in, xDS resources out.

May not enter: decisions about objects (they are made in ``resolve``) and anything that talks to Envoy.
Listeners, filters and what clusters have in common are typed with ``envoy-data-plane``; endpoints, and what differs from
cluster to cluster, are filled in with ``xds-protos``, which is a thousand times faster. Everything is cached by content.
"""

import warnings

# Making its classes, envoy-data-plane trips over deprecations of pydantic: true, but not for our users to read, and fatal
# to those who make warnings errors. Later imports find the classes made.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from ralb_operator.compile.envoy import clusters, listener, providers, routes

__all__ = ["clusters", "listener", "providers", "routes"]
