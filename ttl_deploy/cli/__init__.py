"""The command line: options are made of records, results become tables, and whatever goes wrong becomes one line."""

import os

# Looking through every installed package for pydantic's plugins costs a command 30 ms; there are none of ours.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
