"""Files: `files` writes them whole or not at all, `tables` reads columns of numbers."""
