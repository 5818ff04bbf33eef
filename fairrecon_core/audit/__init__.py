"""Fairness audit: metrics, paired inference by patient, verdicts.

`audit_change` is the one call; `fairrecon_lab.auditing.summary` puts its table in words. Nothing here imports torch.
"""

from fairrecon_core.audit.change import audit_change
from fairrecon_core.audit.metrics import eodd, eop, group_rates
from fairrecon_core.audit.thresholds import choose_threshold

__all__ = [
    "audit_change",
    "choose_threshold",
    "eodd",
    "eop",
    "group_rates",
]
