"""Histograms that grow with the data and keep counts alone."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit._channels import channels_of
from polyfit.autograd._torch import is_exporting, is_transformed, without_transforms

# Elements that are counted at a time: about 20 MB beside the input.
_CHUNK = 2**20


class Histogram:
    """Counts of values in bins of equal width on [lo, hi], a row a group of channels; the last bin has both its ends.

    Attributes:
        lo: the lower end.
        hi: the upper end.
    """

    def __init__(self, lo: float, hi: float, bins: int, n_groups: int = 1, channel_dim: int = 1) -> None:
        self.lo, self.hi = lo, hi
        self._channel_dim = channel_dim
        # Columns: below lo, the bins, above hi, NaN.
        self._all = torch.zeros(n_groups, bins + 3, dtype=torch.int64, device="cpu")

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Count the elements of x: of any shape for one group, else with the groups' channels on their axis.

        Under torch.func, all examples are counted. A tensor without numbers is not: a meta tensor, or one of an export.
        """
        if x.is_meta or is_exporting() or (torch.compiler.is_compiling() and is_transformed()):
            return
        with without_transforms(x, self._channel_dim) as numbers:
            self._add(numbers)

    def _add(self, x: Tensor) -> None:
        n_groups, n_columns = self._all.shape
        n_bins = n_columns - 3
        elements = channels_of(x, self._channel_dim, n_groups).flatten(x.detach())
        outer, _, inner = elements.shape
        axis, length = (0, outer) if outer >= inner else (2, inner)
        offsets = torch.arange(n_groups, device=x.device).view(-1, 1) * n_columns
        counts = torch.zeros(n_groups * n_columns, dtype=torch.int64, device=x.device)
        for part in elements.split(max(1, _CHUNK * length // max(elements.numel(), 1)), axis):
            values = part if part.dtype == torch.float64 else part.float()
            column = ((values - self.lo) * (n_bins / (self.hi - self.lo))).floor_().clamp_(-1, n_bins).add_(1)
            column = torch.where(values == self.hi, n_bins, column)
            column = torch.where(values.isnan(), n_columns - 1, column).long() + offsets
            counts += torch.bincount(column.flatten(), minlength=len(counts))
        self._all = self._all.to(x.device) + counts.view_as(self._all)

    @property
    def counts(self) -> Tensor:
        """The counts of the bins, (groups, bins) int64."""
        return self._all[:, 1:-2]

    @property
    def below(self) -> Tensor:
        """The number of values below `lo`, (groups,) int64."""
        return self._all[:, 0]

    @property
    def above(self) -> Tensor:
        """The number of values above `hi`, (groups,) int64."""
        return self._all[:, -2]

    @property
    def n_nan(self) -> Tensor:
        """The number of values that were NaN, (groups,) int64."""
        return self._all[:, -1]

    @property
    def edges(self) -> Tensor:
        """The edges of the bins, (bins + 1,) float64, on the CPU."""
        return torch.linspace(self.lo, self.hi, self._all.shape[1] - 2, dtype=torch.float64, device="cpu")

    def __repr__(self) -> str:
        """The number of values, and of those that no bin holds."""
        total, below, above = (int(part.sum()) for part in (self._all, self.below, self.above))
        return f"Histogram({total} values, {below} below {self.lo:g}, {above} above {self.hi:g})"
