"""Finding the cut: which candidates there are, which are trained how long, and which one is chosen.

A search is a folder of ordinary runs with a plan beside them. Started again with the same options it goes on where it
was, and repeats no finished trial.
"""
