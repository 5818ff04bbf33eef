"""Fairness audit: metrics, paired inference by patient, verdicts.

`audit_change` is the one call; `summary` puts its table in words. Nothing here imports torch.
"""

from fairrecon_core.audit.change import audit_change
from fairrecon_core.audit.metrics import eodd, eop, group_rates
from fairrecon_core.audit.summary import claims, signed_cells, summary
from fairrecon_core.audit.thresholds import choose_threshold

__all__ = [
    "audit_change",
    "choose_threshold",
    "claims",
    "eodd",
    "eop",
    "group_rates",
    "signed_cells",
    "summary",
]
