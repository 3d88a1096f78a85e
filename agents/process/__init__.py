"""What agents share because they are in one process: threads, the event loop, its global state."""
