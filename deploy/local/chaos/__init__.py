"""Break the running system in every way that it must survive, and judge what is left of it."""
