"""Fetching pretrained weights, with an error a person without internet can act on.

PyTorch's own download cache is used, so weights that were fetched once are found again offline.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlparse

import torch
from torch import Tensor

from ttl_deploy.errors import WeightsError


def fetch_file(name: str, url: str) -> Mapping[str, Tensor]:
    """State dict of a `.pth` behind a URL, through PyTorch's cache, checked against the hash in its name, tensors only.

    Args:
        name: The backbone, for the error.
        url: Where the weights are.

    Raises:
        WeightsError: The download failed or the file is damaged; the error names the address and the way out.
    """
    file = Path(urlparse(url).path).name
    try:
        # The library announces the download on its own, where only this program's results and error line belong.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            state: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
                url, file_name=file, map_location="cpu", check_hash=True, progress=False, weights_only=True
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsError(
            f"the ImageNet weights of {name} cannot be fetched from {url} ({reason})",
            fix="fetch that file on a connected machine and pass it with --weights FILE, "
            "or pass --weights RUN to start from an earlier run, or --weights random",
        ) from error
    return state


def fetch_from_hub(name: str, repository: str, load: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """State dict that a library fetches from Hugging Face, through that hub's cache.

    Args:
        name: The backbone, for the error.
        repository: Where the weights are.
        load: Fetches them.

    Raises:
        WeightsError: It failed; the error names the address and the way out.
    """
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return load()
    # Its errors share no base class.
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsError(
            f"the weights of {name} cannot be fetched from huggingface.co/{repository} ({reason})",
            fix="fetch its model.safetensors on a connected machine and pass it with --weights FILE, "
            "or pass --weights RUN to start from an earlier run, or --weights random",
        ) from error
    finally:
        log.setLevel(level)


def refuse_fetching(name: str, home: str) -> NoReturn:
    """Tells of weights that only a person can fetch.

    Args:
        name: The backbone.
        home: Where its authors say where the weights are.

    Raises:
        WeightsError: Always.
    """
    raise WeightsError(
        f"{name} has no weights that can be fetched from here; its authors' are told of at {home}",
        fix="fetch their file and pass it with --weights FILE, or pass --weights RUN to start from an earlier run, or "
        "--weights random",
    )
