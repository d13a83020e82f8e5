"""Running a check: ask again until it holds or its time is up.

Checks wait because clusters settle; they do not sleep and hope. The clock comes from outside, so tests do not wait.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

from egresslab.errors import EgresslabError
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome, Verdict

INTERVAL_S = 0.25
SETTLED = (Outcome.PASS, Outcome.NOT_APPLICABLE)
"""Outcomes that waiting does not change."""
ATTEMPT_S = 3.0
"""How long "not attempted" is given to become something else: what was applied a moment ago takes effect a moment
later.
"""


def run(
    check: Check,
    bench: Bench,
    subject: dict[str, Any],
    *,
    patience: float = 1.0,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Verdict:
    """Probe until the finding is settled or `check.within_s` seconds, times `patience`, are over; the last finding is
    the verdict.

    An error that is meant for users may pass, so it is asked again; a defect of the probe ends the check at once as
    `error`.
    """
    started = now()
    while True:
        try:
            finding = check.probe(bench, **subject)
        except EgresslabError as error:
            finding = Finding(Outcome.ERROR, check.title, str(error))
        except Exception as error:  # shown to the learner as an error of the check, never as theirs
            defect = "".join(traceback.format_exception_only(error)).strip()
            finding = Finding(Outcome.ERROR, check.title, f"the check itself failed: {defect}")
            return _verdict(check, finding, subject, now() - started)
        within_s = min(ATTEMPT_S, check.within_s) if finding.outcome is Outcome.NOT_ATTEMPTED else check.within_s
        if finding.outcome in SETTLED or now() - started >= within_s * patience:
            return _verdict(check, finding, subject, now() - started)
        sleep(INTERVAL_S)


def _verdict(check: Check, finding: Finding, subject: dict[str, Any], seconds: float) -> Verdict:
    hint = check.hints[0] if finding.outcome in (Outcome.FAIL, Outcome.NOT_ATTEMPTED) else ""
    return Verdict(
        id=check.id,
        title=check.title,
        outcome=finding.outcome,
        expected=finding.expected,
        observed=finding.observed,
        command=finding.command,
        seconds=seconds,
        hint=hint,
        subject={key: str(value) for key, value in subject.items()},
    )
