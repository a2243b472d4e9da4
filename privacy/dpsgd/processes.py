"""One training on several processes (torchrun): every process has all rows and the same model, and takes its part of each batch.

The first process draws coins and noise; the others get what it drew. So there is one Poisson sample and one noise for each step, and the
guarantee is that of one process, however many there are. Process groups are made by the caller (torch.distributed.init_process_group).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed

from dpsynth.privacy.errors import PrivacyError

_FAILED = -1


class Processes:
    """The processes of this training; one, where no process group was made."""

    def __init__(self, device: torch.device) -> None:
        self._many = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self.rank = distributed.get_rank() if self._many else 0
        self.count = distributed.get_world_size() if self._many else 1
        self._device = device if self._many and distributed.get_backend() == "nccl" else torch.device("cpu")

    def from_first(self, draw: Callable[[], npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        """What the first process draws, int64 of one dimension, on every process. Where it fails, all fail."""
        if not self._many:
            return draw()
        drawn, error = np.zeros(0, np.int64), None
        if self.rank == 0:
            try:
                drawn = draw()
            except BaseException as caught:
                error = caught
        size = torch.tensor([_FAILED if error is not None else len(drawn)], device=self._device)
        distributed.broadcast(size, 0)
        if error is not None:
            raise error
        if int(size) == _FAILED:
            raise PrivacyError("the first process of the training failed; its message says why")
        values = torch.from_numpy(drawn).to(self._device) if self.rank == 0 else size.new_empty(int(size))
        distributed.broadcast(values, 0)
        return values.cpu().numpy()

    def summed(self, values: Tensor) -> Tensor:
        """The sum over processes, on every one of them."""
        if not self._many:
            return values
        values = values.to(self._device)
        distributed.all_reduce(values)
        return values
