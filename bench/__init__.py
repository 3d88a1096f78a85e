"""How fast and how heavy: ``make bench``. Each benchmark runs in a process and a database of its own."""
