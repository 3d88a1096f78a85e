"""Worker processes without processes: their memory, their clocks, and real code run step by step.

What decides is the program's own: workers, recorders, leases, the queue, stops, the data store,
retention, guards and tokens. In place of threads and of the agents' loop the test says who does
what next; and a process may be halted between any two steps, for ever (a crash) or for a while (a
freeze), and between any two statements (``faults``).
"""
