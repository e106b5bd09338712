"""`polyfit fit`: least squares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table as RichTable

from polyfit import plotting
from polyfit._checks import check_choice
from polyfit._optional import import_optional
from polyfit.bases import BASES
from polyfit.cli import options
from polyfit.cli.output import (
    UserError,
    as_user_error,
    check_outputs,
    console,
    describe_r_squared,
    printing_warnings,
    show_table,
    write,
)
from polyfit.io.tables import Table, read_columns
from polyfit.least_squares.fit import fit
from polyfit.least_squares.result import Fit, curve_of
from polyfit.least_squares.selection import CRITERIA, select_degree
from polyfit.least_squares.warn import FitWarning


def fit_command(
    file: options.File,
    x: options.XColumn,
    y: options.YColumn,
    degree: Annotated[int | None, typer.Option(min=0, help="Degree of the polynomial.")] = None,
    max_degree: Annotated[
        int | None, typer.Option(min=0, help="Instead of --degree: choose the best degree from 0 to this.")
    ] = None,
    criterion: Annotated[str, typer.Option(help=f"Criterion for --max-degree: {', '.join(CRITERIA)}.")] = "bic",
    delimiter: options.Delimiter = None,
    basis: options.Basis = "chebyshev",
    raw: Annotated[
        bool, typer.Option("--raw", help="Do not map x to the window of the basis. --basis power never maps it.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write a picture of data, curve, confidence band and residuals.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the fit as JSON, for polyfit.Fit.load.")] = None,
) -> None:
    """Fit a polynomial to two columns of a CSV file by least squares, with standard errors."""
    if (degree is None) == (max_degree is None):
        given = (
            "neither --degree nor --max-degree is given" if degree is None else "--degree and --max-degree are given"
        )
        raise UserError(
            f"{given}; pass one of them: --degree for this degree, or --max-degree for the best degree up to it"
        )
    with as_user_error():
        check_choice("basis", basis, BASES)
        check_choice("criterion", criterion, CRITERIA)
    separator = options.delimiter(delimiter)
    check_outputs(picture=out, document=save, data=file)
    if out is not None:
        _check_band()
    table = read_columns(file, x, y, delimiter=separator)
    x_values = torch.tensor(table.x.values, dtype=torch.float64)
    y_values = torch.tensor(table.y.values, dtype=torch.float64)
    show_table(file, table)
    with as_user_error(), printing_warnings(FitWarning):
        if max_degree is None:
            assert degree is not None
            found = fit(x_values, y_values, degree, basis=basis)
        else:
            found = select_degree(x_values, y_values, max_degree, criterion=criterion, basis=basis)
        if raw:
            found = found.in_basis(basis)
    _show_fit(table, found)
    if save is not None:
        write(save, "fit", found.save)
    if out is not None:
        figure = plotting.fit_figure(
            curve_of(found), x_values, y_values, x_label=x, y_label=y, x_is_days=table.x.is_date
        )
        write(out, "picture", lambda path: plotting.save_figure(figure, path))


def _check_band() -> None:
    """Check that the confidence band of a picture can be computed."""
    try:
        import_optional("scipy.special", "--out", "cli")
    except ImportError as error:
        raise UserError(str(error)) from None


def _show_fit(table: Table, found: Fit) -> None:
    console.print(f"\n{found}", style="bold")
    if table.x.unit is not None:
        console.print(f"with {table.x.name} in {table.x.unit}")
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
            console.print("this is the largest degree compared: a larger --max-degree may fit better")
    explained = describe_r_squared(found.r_squared, table.y.name, 6)
    console.print(f"{explained}, residual standard deviation {found.residual_std:.6g}, {found.status}")
