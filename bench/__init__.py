"""How fast and how heavy: ``make bench``. Each one has a process and a database of its own."""
