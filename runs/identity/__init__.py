"""Who a client is: passwords, API tokens, sessions, and the record of who did what.

A Django app of its own. It knows users, and neither runs' actions nor the ways in.
"""
