"""What several tests need: real servers, and runs without records."""
