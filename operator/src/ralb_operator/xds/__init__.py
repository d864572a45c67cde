"""Serving config to Envoy: resources by type, the delta protocol, its gRPC server."""
