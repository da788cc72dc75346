"""The paper's own experiments, each a command: python -m trainer.experiments --help."""
