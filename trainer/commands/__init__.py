"""The work of commands; the modules of the same names in trainer/ have their flags."""
