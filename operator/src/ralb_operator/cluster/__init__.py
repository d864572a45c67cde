"""The operator's edge to a Kubernetes API server: what it reads there, and what it writes back.

Objects come in through list and watch, become one ``Store``, and every quiet moment one ``View`` for the same ``compile`` that
``ralb up`` runs. What a configuration means may not enter; neither may anything that blocks the event loop.
"""
