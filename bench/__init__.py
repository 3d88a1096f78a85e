"""How fast and how heavy: ``make bench``. Each one runs in a process and on a database of its own."""
