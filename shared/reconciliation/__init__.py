"""Are the books, the cache and the provider of one mind? Runs, checks, corrections."""
