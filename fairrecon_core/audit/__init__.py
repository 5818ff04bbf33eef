"""Fairness audit: metrics, inference by patient, verdicts.

`audit_change`: did an arm change the gaps between subgroups? `audit_single`: one model, its rates and its gaps.
`fairrecon_lab.auditing` puts their tables in words. Nothing here imports torch.
"""

from fairrecon_core.audit.change import audit_change
from fairrecon_core.audit.single import audit_single
from fairrecon_core.audit.thresholds import choose_threshold

__all__ = ["audit_change", "audit_single", "choose_threshold"]
