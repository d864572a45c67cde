"""The prefill leg: asking a prefill pod to compute a prompt before the request goes to its decode pod.

May not enter: choosing pods (``place.disaggregate``), and anything of Envoy's protocol.
"""
