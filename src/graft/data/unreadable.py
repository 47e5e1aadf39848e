"""The one error of reading a picture."""

from __future__ import annotations

from graft.errors import DataError


class UnreadableImage(DataError):
    """A picture that cannot be read: ``reason`` in a few words, ``where`` names it if known."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason, where)
        self.reason = reason
        self.where = where

    def __str__(self) -> str:
        return f"Cannot read the picture{' ' if self.where else ''}{self.where}: {self.reason}."
