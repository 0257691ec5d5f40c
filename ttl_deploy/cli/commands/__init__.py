"""One module per command: `NAME`, `ORDER` in the help, `NEEDS_ARGUMENTS`, and the function `run`."""
