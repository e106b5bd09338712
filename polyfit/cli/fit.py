"""`polyfit fit`."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table as RichTable

from polyfit import plotting
from polyfit.cli.options import BASIS_HELP
from polyfit.cli.output import UserError, check_outputs, console, show_table, write
from polyfit.io.tables import Table, read_columns
from polyfit.least_squares.fit import fit
from polyfit.least_squares.result import Fit, FitWarning
from polyfit.least_squares.selection import select_degree


def fit_command(
    file: Annotated[Path, typer.Argument(help="CSV file with a header line.")],
    x: Annotated[str, typer.Option(help="Column of x: numbers, or dates (read as days).")],
    y: Annotated[str, typer.Option(help="Column of y.")],
    degree: Annotated[int | None, typer.Option(min=0, help="Degree of the polynomial.")] = None,
    max_degree: Annotated[int | None, typer.Option(min=0, help="In its place: choose a degree up to this.")] = None,
    criterion: Annotated[str, typer.Option(help="What chooses it: aic, aicc, bic or cv.")] = "bic",
    basis: Annotated[str, typer.Option(help=BASIS_HELP)] = "chebyshev",
    raw: Annotated[
        bool, typer.Option("--raw", help="Coefficients of x itself; else x is mapped to the window.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write a picture: data, curve, confidence band, residuals.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the fit as JSON, for polyfit.Fit.load.")] = None,
) -> None:
    """Fit a polynomial to two columns of a CSV file by least squares, with standard errors."""
    if (degree is None) == (max_degree is None):
        raise UserError("pass one of --degree, for a polynomial of that degree, and --max-degree, to have it chosen")
    check_outputs(out, save, file)
    table = read_columns(file, x, y)
    x_values = torch.tensor(table.x.values, dtype=torch.float64)
    y_values = torch.tensor(table.y.values, dtype=torch.float64)
    show_table(file, table)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FitWarning)
            if max_degree is None:
                assert degree is not None
                found = fit(x_values, y_values, degree, basis=basis)
            else:
                found = select_degree(x_values, y_values, max_degree, criterion=criterion, basis=basis)
            if raw:
                found = found.in_basis(basis)
    except ValueError as error:
        raise UserError(str(error)) from None
    for warning in caught:
        console.print(f"warning: {warning.message}")
    _show_fit(table, found)
    if save is not None:
        write(save, "fit", found.save)
    if out is not None:
        figure = plotting.fit_figure(found, x_values, y_values, x_label=x, y_label=y, x_is_days=table.x.is_date)
        write(out, "picture", lambda path: plotting.save_figure(figure, path))


def _show_fit(table: Table, found: Fit) -> None:
    console.print(f"\n{found}", style="bold")
    if table.x.is_date:
        console.print(f"with {table.x.name} in days since 1970-01-01")
    shown = RichTable()
    for heading in ("k", "coefficient", "standard error"):
        shown.add_column(heading, justify="right")
    for k, (value, error) in enumerate(zip(found.coef.tolist(), found.std_err.tolist(), strict=True)):
        shown.add_row(str(k), f"{value:.15g}", f"{error:.6g}")
    console.print(shown)
    if found.selection is not None:
        compared = found.selection
        largest = compared.degrees[-1]
        console.print(f"degree {compared.degree} of 0 to {largest}, by {compared.criterion}")
        if compared.degree == largest:
            console.print("it is the largest that was tried: a larger --max-degree may do better")
    explained = f"R^2 {found.r_squared:.6f}"
    if math.isnan(found.r_squared):
        explained = f"R^2 is not defined: {table.y.name} is constant"
    console.print(f"{explained}, residual standard deviation {found.residual_std:.6g}, {found.status}")
