"""Running a network on PyTorch's meta device: real shapes, real memory, nothing computed, and no time lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ttl_deploy.errors import BadInputError, TtlDeployError


class MetaMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, ptflops counts what the model calls and not what an operator calls in turn.

    ptflops replaces functions of torch by ones that note a count and then run. On the meta device some operators are
    written in Python with those same functions (`addmm` with `mm`): a linear layer would be counted twice, which on
    a processor it is not.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs an operator and forgets what was noted meanwhile."""
        notes: list[list[int]] = [getattr(place, "collector", []) for place in (torch.mm, functional.relu)]
        lengths = [len(noted) for noted in notes]
        result = _run(func, args, kwargs or {})
        for noted, length in zip(notes, lengths, strict=True):
            del noted[length:]
        return result


@contextlib.contextmanager
def told_in_one_line(shape: Sequence[int]) -> Iterator[None]:
    """Turns whatever a network's forward pass fails with, while it is counted, into one error.

    Args:
        shape: Shape of the input without the batch.

    Raises:
        BadInputError: The pass failed.
    """
    try:
        yield
    except TtlDeployError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BadInputError(
            f"the network cannot be counted: its forward pass on {'x'.join(map(str, shape))} fails: {said}",
            fix="give it the size and the channels that it takes, and let it make no tensors on a device of its own",
        ) from error


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Runs an operator on meta tensors.

    Batch norm is answered here, as its meta version works out every intermediate and would take most of the time:
    in evaluation its output is like its input, and there are no batch statistics.
    """
    if func is torch.ops.aten.native_batch_norm.default and not args[5] and args[0].is_meta:
        return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
    return func(*args, **kwargs)
