"""Checks of this machine before a long run: `python -m trainer.doctor`.

It must work with broken packages, so it imports the standard library alone. Checks that could fail or crash
run in a process of their own.
"""
