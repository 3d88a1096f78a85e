"""The REST door: it reads requests, calls actions, writes answers. It writes no row of a run."""
