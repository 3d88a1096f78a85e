"""A Django app whose agents misbehave on purpose, for tests that need a server of its own process."""
