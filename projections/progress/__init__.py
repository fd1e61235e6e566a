"""The progress audit of a run: how far, how fast, where it stood still, when it went backwards."""

from projections.progress.answer import ProgressAudit
from projections.progress.fold import AttemptChoice, ProgressFold, audit_progress
from projections.progress.outlook import Outlook
from projections.progress.scales import ScaleChoice, parse_scale

__all__ = [
    "AttemptChoice",
    "Outlook",
    "ProgressAudit",
    "ProgressFold",
    "ScaleChoice",
    "audit_progress",
    "parse_scale",
]
