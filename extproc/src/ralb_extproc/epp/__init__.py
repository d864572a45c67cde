"""Endpoint Picker Protocol: the processor as the ``endpointPickerRef`` of an InferencePool, for any gateway that speaks it.

One ext_proc stream is one request of one pool: its body is read, one of the pool's pods is named in a header and in dynamic
metadata, and the body is given back; then the answer passes by and is learned from. Understanding and placement are those of
the normal path (``Router.pick``). ``stream`` (the protocol), ``replies`` (its messages), ``subset`` (what the gateway
allows), ``answer`` and ``usage`` (what the answer tells), ``health``, ``tls``, ``service`` (what streams share), ``server``
(ports), ``options`` (flags).

Nothing is imported here, so that the command can read its flags (``options``) without loading the rest. May not enter:
choosing among pools or models. A pool here serves one base model, and the gateway has chosen it.
"""
