"""Faster layers with the parameters and state-dict names of the plain ones; each is tested equal to the plain one."""
