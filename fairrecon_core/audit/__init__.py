"""Fairness audit: metrics, paired inference by patient, verdicts, the published evaluation, control arms.

`audit_change` is the one call; `summary` puts its table in words. Nothing here imports torch.
"""

from fairrecon_core.audit.change import audit_change
from fairrecon_core.audit.controls import blurred, placebo, planted, planted_change
from fairrecon_core.audit.metrics import eodd, eop, group_rates
from fairrecon_core.audit.published import published_audit
from fairrecon_core.audit.summary import signed_cells, summary
from fairrecon_core.audit.thresholds import choose_threshold

__all__ = [
    "audit_change",
    "blurred",
    "choose_threshold",
    "eodd",
    "eop",
    "group_rates",
    "placebo",
    "planted",
    "planted_change",
    "published_audit",
    "signed_cells",
    "summary",
]
