"""Fairness audit: metrics, inference by patient, verdicts.

`audit_change` is the one call: did an arm change the gaps between subgroups? One model alone is audited by
`fairrecon_lab.auditing.single`, and `fairrecon_lab.auditing` puts the tables in words. Nothing here imports torch.
"""

from fairrecon_core.audit.change import audit_change
from fairrecon_core.audit.thresholds import choose_threshold

__all__ = ["audit_change", "choose_threshold"]
