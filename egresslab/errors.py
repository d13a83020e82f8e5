"""The errors a user may see.

Each says what is wrong, with which object and field and value, and what to do about it, so that a message never
ends in a riddle. Everything else that is raised is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class EgresslabError(Exception):
    """Base of all errors meant for users.

    `object` names the thing concerned (`CiliumEgressGatewayPolicy/egress-sample`, a file, a link), `field` the path
    inside it, `value` what was found there, `fix` the next step in words or as a command.
    """

    def __init__(
        self,
        message: str,
        *,
        object: str | None = None,
        field: str | None = None,
        value: object = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.object = object
        self.field = field
        self.value = value
        self.fix = fix

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.object, self.field) if part)
        text = f"{where}: {self.message}" if where else self.message
        if self.value is not None:
            text += f" (got {self.value!r})"
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class PolicyError(EgresslabError):
    """An egress policy or gateway object that cannot be accepted."""


class DatapathError(EgresslabError):
    """The kernel refused a program, a map or an attachment, or lacks a feature."""


class ClusterError(EgresslabError):
    """The Kubernetes API or a node of the embedded cluster could not do what was asked."""


class EnvironmentFailure(EgresslabError):
    """A lab could not be brought up, broken, healed or taken down."""


class LabError(EgresslabError):
    """A chapter asked for something that the lab cannot give, or waited in vain."""
