"""Memory through which the programs of a series pass their sums to the last of them: one launch gives the totals.

A ticket is a counter of a series. Each program stores its sums and draws a ticket. The program that draws the last one
adds up all sums, always in the same order, and sets the counter back to zero (`polyfit_kernels.sums.store_totals` is
the part of this on the device). So all tickets are zero between launches, and no launch clears memory first.

Which launches share tickets, and why that is safe:

- **Several streams.** Launches of one stream run one after another. Launches of two streams may run at the same time,
  so each (device, stream) has its own tickets. They are allocated and zeroed on that stream: the zeroing precedes their
  first use. A buffer that became too small is freed to that stream, after the launches that still use it.
- **Several threads.** Two threads that launch on one stream share its tickets, and the stream orders their launches.
  If both find no buffer, both allocate one and the later one is kept. Each is zero and serves the launch of its thread.
- **CUDA graphs.** A graph may be replayed on any stream, at the same time as other work. A captured launch gets fresh
  tickets, zeroed inside the graph and owned by its memory pool. They are never kept: a captured launch has not run yet.
- **Private memory pools.** While torch.compile warms a graph up, nothing is captured yet, but memory comes from the
  pool of the future graph. That pool later gives the memory to others, even if it is still in use here. Tickets from
  such a pool are not kept.
- **Aborted launches.** A refused launch draws no ticket. A launch that has begun either ends, and sets its tickets
  back, or fails with an error after which the process cannot use the device. An exception between the choice of the
  tickets and the launch leaves them zero.
- **Streams that end.** Streams of PyTorch live as long as the process. The owner of any other stream must let its work
  end before it destroys the stream: a new stream may get the same handle, and with it the same tickets.
"""

import torch
from triton.runtime import driver

from polyfit_kernels import sums

_tickets: dict[tuple[int | None, int], torch.Tensor] = {}


def allocate(
    device: torch.device, n_series: int, programs: int, count: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Memory for the sums of each program, (S, programs, count padded) float64, and a ticket a series, int32.

    Both are None if a series has one program.
    """
    if programs == 1:
        return None, None
    partial = torch.empty(n_series, programs, sums.width(count), dtype=torch.float64, device=device)
    return partial, tickets(device, n_series)


def tickets(device: torch.device, n_series: int) -> torch.Tensor:
    """At least n_series tickets, all zero, for a launch on the current stream of the device."""
    is_gpu = device.type == "cuda"
    if is_gpu and torch.cuda.is_current_stream_capturing():
        return torch.zeros(n_series, dtype=torch.int32, device=device)
    key = (device.index, driver.active.get_current_stream(device.index) if is_gpu else 0)
    kept = _tickets.get(key)
    if kept is not None and kept.numel() >= n_series:
        return kept
    fresh = torch.zeros(1 << (n_series - 1).bit_length(), dtype=torch.int32, device=device)
    if not (is_gpu and _may_be_reused(fresh)):
        _tickets[key] = fresh
    return fresh


def _may_be_reused(tensor: torch.Tensor) -> bool:
    """Whether a tensor's memory is from a private pool, or from an allocator that does not say which."""
    if torch.cuda.get_allocator_backend() != "native":
        return True
    address = tensor.data_ptr()
    return not any(
        segment["address"] <= address < segment["address"] + segment["total_size"]
        and tuple(segment["segment_pool_id"]) == (0, 0)
        for segment in torch.cuda.memory_snapshot()
    )
