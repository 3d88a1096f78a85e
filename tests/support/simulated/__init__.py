"""Simulated worker processes: memory, clocks, and the real code, executed step by step.

All decisions are the program's own: workers, recorders, leases, the queue, stops, the data store,
retention, guards and tokens. The test replaces the threads and the agents' loop: it chooses the
next step. It can halt a process between any two steps, for ever (a crash) or for a while (a
freeze), and interrupt it between any two statements (``faults``).
"""
