"""The ``ralb`` command: thin modules, one per subcommand, over what the other rooms offer.

May not enter: logic somebody else could need; it belongs into the room it is about.
"""
