"""The operators' command: thin, one module a noun."""
