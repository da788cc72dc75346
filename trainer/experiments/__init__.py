"""Experiments of the paper, each a command: python -m trainer.experiments --help."""
