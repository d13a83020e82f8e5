"""Label selectors mean what Kubernetes says, in objects and in query strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egresslab.api.selectors import SelectorError, parse_query, parse_selector

LABELS = {"app": "web", "tier": "front", "example.com/zone": "z1"}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "web", "tier": "back"}}, False),
        ({"matchLabels": {"absent": ""}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["api", "web"]}]}, True),
        ({"matchExpressions": [{"key": "absent", "operator": "In", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "absent", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "example.com/zone", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "absent", "operator": "DoesNotExist", "values": []}]}, True),
        ({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": None, "matchExpressions": None}, True),
    ],
)
def test_object_form(selector: dict[str, object], matches: bool) -> None:
    assert parse_selector(selector).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier!=back", True),
        ("app!=web", False),
        ("absent!=web", True),
        ("app in (web, api),tier notin (back)", True),
        ("example.com/zone", True),
        ("!app", False),
        ("!absent , app = web", True),
        ("app=", False),
    ],
)
def test_query_form(query: str, matches: bool) -> None:
    assert parse_query(query).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("selector", "field"),
    [
        ([], None),
        ({"app": "web"}, "app"),
        ({"matchLabels": []}, "matchLabels"),
        ({"matchLabels": {"app": True}}, "matchLabels.app"),
        ({"matchLabels": {"app": "-"}}, "matchLabels.app"),
        ({"matchLabels": {"app": "x" * 64}}, "matchLabels.app"),
        ({"matchLabels": {"": "x"}}, "matchLabels."),
        ({"matchExpressions": {}}, "matchExpressions"),
        ({"matchExpressions": ["app"]}, "matchExpressions[0]"),
        ({"matchExpressions": [{"key": "app", "operator": "Equals"}]}, "matchExpressions[0].operator"),
        ({"matchExpressions": [{"key": "app", "operator": "In"}]}, "matchExpressions[0].values"),
        ({"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["x"]}]}, "matchExpressions[0].values"),
        ({"matchExpressions": [{"operator": "Exists"}]}, "matchExpressions[0].key"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "vlaues": []}]}, "matchExpressions[0].vlaues"),
    ],
)
def test_what_is_no_selector_is_refused_by_field(selector: object, field: str | None) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_selector(selector)
    assert caught.value.field == field


@pytest.mark.parametrize("query", ["a=b,", "a=b c", "a in b", "a in (b", "=b", "a=b=c", "a!", "!"])
def test_malformed_query_is_refused(query: str) -> None:
    with pytest.raises(SelectorError):
        parse_query(query)


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3))
def test_text_of_a_selector_reads_back(labels: dict[str, str]) -> None:
    selector = parse_selector({"matchLabels": labels, "matchExpressions": [{"key": "d", "operator": "DoesNotExist"}]})
    assert parse_query(str(selector)) == selector
