"""Studies: what knowledge is worth, to whom, and which parts of a method matter.

Each is a module that trains a table of models under one protocol (`grid.py`), writes its tables and
plots to `docs/studies/`, and can be run again from where it was cut off.
"""
