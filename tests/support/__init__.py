"""Support for several tests: real servers, and runs without records."""
