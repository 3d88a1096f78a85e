"""The agents that ship: real ones, written as the examples that people will copy.

The agents themselves are in ``agents.py``, where Halting looks for them; each module beside it is
one idea that they need and knows nothing of the others' business.
"""
