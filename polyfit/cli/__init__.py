"""The command line: `python -m polyfit`."""
