"""What is wrong with a cohort."""

from __future__ import annotations

from ..errors import UserError


class CohortError(UserError, ValueError):
    """All faults of a data list in one text."""
