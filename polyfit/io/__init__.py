"""Files: `files` writes them whole or not at all, `delimited` reads rows of text, `tables` columns of numbers."""
