"""The command line, `polyfit` or `python -m polyfit`: one command a file, with `options` and `output` for all."""
