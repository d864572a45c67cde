"""The real control plane that tests run: its programs, built once from public Go modules and kept in the user's cache.

Nothing here is imported by RALB itself. ``locate`` answers "where is it?" without Go and without the network; ``build`` makes
what is missing, which takes minutes once per version. No binary and no foreign YAML is ever put into the repository.
"""
