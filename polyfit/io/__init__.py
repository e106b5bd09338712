"""Files: written whole or not at all (`files`), and columns of numbers read from tables (`tables`)."""
