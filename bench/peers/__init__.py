"""The comparison with other systems: ``python -m bench peers``.

Each system runs in an environment and with a database of its own, one after the other: one worker
process, one driver process that calls the system's own functions. ``driver`` measures, and
``jobs`` has the work; ``adapters`` say how each system declares jobs, starts and stops them. Ours
is one of them.
"""
