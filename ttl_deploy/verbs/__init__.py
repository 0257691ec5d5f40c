"""What each command does: one file per command, which composes rooms; the Python API is these functions.

Where another room needs what a command does, as the search needs a training, the function stays in that room and the
file here is its door.
"""
