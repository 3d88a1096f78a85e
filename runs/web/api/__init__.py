"""The REST door: reads requests, asks the services, writes answers. It never writes a run's row."""
