"""Advice with evidence: what people are taught, what the data says, and what follows from both."""

from __future__ import annotations

from graft.advice.scores import logme as logme

__all__ = ["logme"]
