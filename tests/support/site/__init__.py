"""A Django app whose agents misbehave on purpose, for tests with a separate server process."""
