"""What the programs of one series leave in memory for the last of them, so that one launch gives the totals.

Each program stores its sums and draws a ticket; the one that draws the last adds all of them up, always in the same
order, and puts the tickets back (`polyfit_kernels.sums.store_totals` is the device's side of this). Between launches
all tickets are therefore zero, and no launch begins by clearing memory.

Whose tickets, and when that could go wrong:

- **Several streams.** Launches of one stream run one after another, those of two streams may run side by side: each
  (device, stream) has tickets of its own. They are allocated and zeroed on that stream, so that the zeroing precedes
  their first use; a buffer that became too small is freed to that stream, behind the launches that still use it.
- **Several threads.** Two threads that launch on one stream share its tickets, and the stream orders their launches.
  If both find the buffer missing, both make one and the later one is kept; either is zero and its own launch's.
- **CUDA graphs.** A graph may be replayed on any stream, beside anything. A launch that is captured gets fresh tickets,
  zeroed inside the graph and owned by its memory pool. They are never kept: what was only captured has not run.
- **Private memory pools.** While torch.compile warms a graph up, nothing is captured yet, but memory comes from the
  pool of the graph to be, which later hands it to others whoever still holds it. Tickets from such a pool are not kept.
- **Aborted launches.** A launch that is refused draws no ticket. One that has begun either ends, and puts its tickets
  back, or fails with an error after which the process can use the device no more. An exception between the choice of
  the tickets and the launch leaves them zero.
- **Streams that end.** PyTorch's own live as long as the process. Whoever destroys a stream from elsewhere must let its
  work end first: a new stream may get the same handle, and with it the same tickets.
"""

import torch
from triton.runtime import driver

from polyfit_kernels import sums

_tickets: dict[tuple[int | None, int], torch.Tensor] = {}


def allocate(
    device: torch.device, n_series: int, programs: int, count: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Memory for the sums of each program, (S, programs, count padded) float64, and a ticket a series, int32.

    Neither is needed, and both are None, where a series has one program.
    """
    if programs == 1:
        return None, None
    partial = torch.empty(n_series, programs, sums.width(count), dtype=torch.float64, device=device)
    return partial, tickets(device, n_series)


def tickets(device: torch.device, n_series: int) -> torch.Tensor:
    """At least n_series zeros that a launch on the current stream of the device may draw from."""
    is_gpu = device.type == "cuda"
    if is_gpu and torch.cuda.is_current_stream_capturing():
        return torch.zeros(n_series, dtype=torch.int32, device=device)
    key = (device.index, driver.active.get_current_stream(device.index) if is_gpu else 0)
    kept = _tickets.get(key)
    if kept is not None and kept.numel() >= n_series:
        return kept
    fresh = torch.zeros(1 << (n_series - 1).bit_length(), dtype=torch.int32, device=device)
    if not (is_gpu and _may_be_taken_back(fresh)):
        _tickets[key] = fresh
    return fresh


def _may_be_taken_back(tensor: torch.Tensor) -> bool:
    """Whether a GPU tensor's memory is from a private pool, or from an allocator that does not tell."""
    if torch.cuda.get_allocator_backend() != "native":
        return True
    address = tensor.data_ptr()
    return not any(
        segment["address"] <= address < segment["address"] + segment["total_size"]
        and tuple(segment["segment_pool_id"]) == (0, 0)
        for segment in torch.cuda.memory_snapshot()
    )
