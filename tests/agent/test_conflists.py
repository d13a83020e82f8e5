"""Our plug-in is put into network configurations and taken out again, and nothing else in them changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egresslab.agent import conflist

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(["bridge", "ptp", "portmap", "bandwidth", "calico", "egresslab2", ""])
PLUGINS = st.builds(lambda rest, kind: {**rest, "type": kind}, st.dictionaries(st.text(max_size=6), VALUES), TYPES)
KEYS = st.text(max_size=10).filter(lambda key: key not in ("plugins", "type"))
LISTS: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda before, plugins, after: {**before, "plugins": plugins, **after},
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.lists(PLUGINS, min_size=1, max_size=4),
    st.dictionaries(KEYS, VALUES, max_size=4),
)
OURS = {"type": "egresslab"}


def written(configuration: conflist.Configuration) -> str:
    """Order of keys included."""
    return json.dumps(configuration)


@settings(max_examples=40, deadline=None)
@given(LISTS)
def test_every_other_plugin_and_key_stays_in_its_place(configuration: dict[str, Any]) -> None:
    there = conflist.parse(conflist.render(conflist.with_plugin(configuration)))
    assert there["plugins"][-1] == OURS and conflist.asks(there)
    assert written({**there, "plugins": there["plugins"][:-1]}) == written(configuration)


@settings(max_examples=40, deadline=None)
@given(LISTS)
def test_twice_is_once(configuration: dict[str, Any]) -> None:
    once = conflist.with_plugin(configuration)
    assert written(conflist.with_plugin(once)) == written(once)


@settings(max_examples=40, deadline=None)
@given(LISTS)
def test_taken_out_again_it_is_what_it_was(configuration: dict[str, Any]) -> None:
    gone = conflist.without_plugin(conflist.parse(conflist.render(conflist.with_plugin(configuration))))
    assert written(gone) == written(configuration) and not conflist.asks(gone)


@settings(max_examples=40, deadline=None)
@given(LISTS, st.integers(0, 4))
def test_wherever_it_stood_it_ends_last_and_alone(configuration: dict[str, Any], place: int) -> None:
    others = list(configuration["plugins"])
    strewn = [*others[:place], {**OURS, "old": 1}, *others[place:], OURS]
    assert written(conflist.with_plugin({**configuration, "plugins": strewn})) == written(
        conflist.with_plugin(configuration)
    )


def test_a_lone_plugin_becomes_a_list_of_its_name_and_version() -> None:
    lone = {"cniVersion": "0.3.1", "name": "net", "type": "bridge", "ipam": {"type": "host-local"}}
    listed = conflist.with_plugin(conflist.as_list(lone))
    assert listed == {"cniVersion": "0.3.1", "name": "net", "plugins": [lone, OURS]}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"plugins": []}', '{"plugins": "x"}', '{"name": "n"}', '{"type": 3}']
)
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        conflist.parse(text)
