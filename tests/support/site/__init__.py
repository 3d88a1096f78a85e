"""A Django app whose agents misbehave on purpose, for tests with a server process of its own."""
