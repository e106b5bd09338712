"""Fits by least squares.

`fit` is the user's function for one series. Its steps are in `data` (the samples), `conditions` (ridge and fixed
coefficients), `refinement` (the solution), `total` (the sum of squares for R^2) and `statistics` (errors and warnings);
they rest on `algebra` (small matrices), `design` and `residuals` (sums over few data, and in extended precision).

`result` holds `Fit`, `estimate` the polynomial inside it, `document` its file. `moments` fits from sums of parts of the
data, and `selection` chooses a degree by the sums of `folds`.
"""
