"""RALB on one machine: control plane in this process; Envoy, processor and simulated pods as children.

May not enter: decisions. The same compile, processor and Envoy config run here as in a cluster; only where objects come from
and who starts processes differs.
"""
