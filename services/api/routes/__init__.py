"""The routes, one module a kind of caller."""
