"""Questions about tokens and rights: TokenReview, SelfSubjectReview and the access reviews. Nothing is stored.

`kubectl auth can-i`, `kubectl auth whoami` and kubelets that check their callers ask these.
"""

from __future__ import annotations

from egresslab.api.resources import Object
from egresslab.cluster.apiserver.authentication import Authenticator, User
from egresslab.cluster.apiserver.authorization import Attempt, Authorizer


class Reviewer:
    """Answers reviews with the authenticator and authorizer that requests pass through."""

    def __init__(self, authenticator: Authenticator, authorizer: Authorizer) -> None:
        self._authenticator, self._authorizer = authenticator, authorizer

    def review(self, review: Object, namespace: str, user: User) -> Object:
        """The review with its status filled in."""
        spec = review.setdefault("spec", {})
        match review["kind"]:
            case "TokenReview":
                found = self._authenticator.user(str(spec.get("token") or ""))
                review["status"] = {"authenticated": True, "user": found.info()} if found else {"user": {}}
            case "SelfSubjectReview":
                review["status"] = {"userInfo": user.info()}
            case "SelfSubjectRulesReview":
                review["status"] = self._rules(user, spec.get("namespace") or namespace)
            case "SelfSubjectAccessReview":
                review["status"] = self._access(user, spec)
            case _:
                groups = tuple(spec.get("groups") or ())
                review["status"] = self._access(User(str(spec.get("user") or ""), groups=groups), spec)
        review.setdefault("metadata", {}).setdefault("creationTimestamp", None)
        return review

    def _access(self, user: User, spec: Object) -> Object:
        asked, path = spec.get("resourceAttributes") or {}, spec.get("nonResourceAttributes") or {}
        if path:
            attempt = Attempt(str(path.get("verb", "")), path=str(path.get("path", "")))
        else:
            resource = str(asked.get("resource", ""))
            if asked.get("subresource"):
                resource += f"/{asked['subresource']}"
            names = (str(asked.get(part) or "") for part in ("namespace", "name"))
            attempt = Attempt(str(asked.get("verb", "")), str(asked.get("group") or ""), resource, *names)
        return {"allowed": self._authorizer.allows(user, attempt)}

    def _rules(self, user: User, namespace: str) -> Object:
        everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
        rules = [rule for where, rule in self._authorizer.rules(user) if where in ("", namespace)]
        if "system:masters" in user.groups:
            rules += [everything, {"verbs": ["*"], "nonResourceURLs": ["*"]}]
        resource = [
            {key: rule[key] for key in ("verbs", "apiGroups", "resources", "resourceNames") if rule.get(key)}
            for rule in rules
            if rule.get("resources")
        ]
        other = [
            {"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]}
            for rule in rules
            if rule.get("nonResourceURLs")
        ]
        return {"resourceRules": resource, "nonResourceRules": other, "incomplete": False}
