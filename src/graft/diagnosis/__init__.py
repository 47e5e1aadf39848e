"""The doctor: the known mistakes, each a check with an id, what was measured, why it matters and the cure.

``doctor`` looks at a model, loader and optimiser of a loop that was not written with graft; data and
recipes are looked at by :mod:`graft.examination`, the course of training by training_checks.py.
"""

from __future__ import annotations

from graft.diagnosis.findings import Finding
from graft.diagnosis.modules import doctor

__all__ = ["Finding", "doctor"]
