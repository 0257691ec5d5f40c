"""A reporter that keeps what it is told."""

from __future__ import annotations

from typing import Any

from ttl_deploy.progress import SILENT


class Listener:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)

    def task(self, description: str, total: float | None) -> Any:
        return SILENT.task(description, total)
