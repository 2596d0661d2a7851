"""What torch keeps per thread, carried from the caller's thread to that of a run."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class CallerContext:
    """State that torch keeps per thread and that a new thread does not inherit."""

    device: torch.device
    stream: torch.cuda.Stream | None

    @classmethod
    def current(cls) -> "CallerContext":
        """That of the calling thread."""
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream() if started else None
        return cls(torch.get_default_device(), stream)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Use it in the calling thread."""
        with contextlib.ExitStack() as stack:
            if self.device != torch.get_default_device():
                stack.enter_context(self.device)
            if self.stream is not None:
                # It belongs to a device, which becomes the current one, and orders the
                # run after what the caller has launched there.
                stack.enter_context(torch.cuda.stream(self.stream))
            yield
