"""The ``ralb`` command. It may use every other room, and nothing may use it.

One module per subcommand; ``stack`` runs the whole of RALB on one machine for ``ralb up`` and ``ralb demo``.
"""
