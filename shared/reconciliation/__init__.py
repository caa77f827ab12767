"""Are the books, the cache and the provider of one opinion? Runs, checks and proposed corrections."""
