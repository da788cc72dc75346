"""How images lie in files: for each kind of archive, a list of its members, and reading them in place."""
