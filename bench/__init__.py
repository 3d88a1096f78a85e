"""Benchmarks: ``make bench``. Each one has its own process and its own database."""
