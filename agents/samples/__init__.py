"""The agents that ship with Halting, also as examples to copy.

They are in ``agents.py``, where Halting looks for agents. Each other module is one idea that they
need.
"""
