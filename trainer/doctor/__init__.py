"""A look at this machine before hours are spent on it: `python -m trainer.doctor`.

It must work where half of the packages are broken, so it imports nothing but the standard library; whatever
could fail or crash is tried in a process of its own.
"""
