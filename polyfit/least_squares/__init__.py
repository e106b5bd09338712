"""Fits by least squares: one polynomial (`fit`), its result, moments that add up, and the choice of a degree."""
