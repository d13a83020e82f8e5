"""The object file by itself: what it asks of a kernel, and that Python reads its memory as it is laid out."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from egresslab.datapath import layout
from egresslab.datapath.datapath import OBJECT
from egresslab.datapath.libbpf import Libbpf, Object
from egresslab.errors import DatapathError

HELPERS = {
    1: "map_lookup_elem",
    2: "map_update_elem",
    3: "map_delete_elem",
    5: "ktime_get_ns",
    7: "get_prandom_u32",
    9: "skb_store_bytes",
    11: "l4_csum_replace",
    20: "skb_get_tunnel_key",
    21: "skb_set_tunnel_key",
    23: "redirect",
    26: "skb_load_bytes",
    28: "csum_diff",
    31: "skb_change_proto",
    32: "skb_change_type",
    38: "skb_change_tail",
    34: "get_hash_recalc",
    50: "skb_adjust_room",
    69: "fib_lookup",
    85: "sk_lookup_udp",
    86: "sk_release",
    93: "spin_lock",
    94: "spin_unlock",
    99: "skc_lookup_tcp",
    118: "jiffies64",
    131: "ringbuf_reserve",
    132: "ringbuf_submit",
    134: "ringbuf_query",
    135: "csum_level",
    152: "redirect_neigh",
    155: "redirect_peer",
}
"""Helpers that the programs call, by number (linux/bpf.h)."""
LAST_OF_5_10 = 155


def types() -> layout.Types:
    with Object(Libbpf(), OBJECT) as opened:
        return layout.parse_btf(opened.btf())


def test_every_helper_is_known_and_of_kernel_5_10() -> None:
    text = subprocess.run(["llvm-objdump", "-d", str(OBJECT)], check=True, capture_output=True, text=True).stdout
    # Byte 1 of a call holds the source register: 0 for a helper, 1 for a function of ours.
    called = {int(number, 16 if number.startswith("0x") else 10) for number in re.findall(r"85 00 .*call (\S+)", text)}
    assert called == set(HELPERS)
    assert max(called) <= LAST_OF_5_10


def test_layouts_and_numbers_agree_with_the_object() -> None:
    layout.check_contract(types())


def test_a_struct_that_differs_is_named() -> None:
    declared = types()
    fields = declared.structs["gateway_slot"]
    moved = {**declared.structs, "gateway_slot": (fields[1], fields[0], *fields[2:])}
    with pytest.raises(DatapathError, match="struct gateway_slot"):
        layout.check_contract(replace(declared, structs=moved))


def test_an_enum_that_differs_is_named() -> None:
    declared = types()
    numbers = {**declared.enums, "reason": {**declared.enums["reason"], "NO_GATEWAY": 195}}
    with pytest.raises(DatapathError, match="enum reason"):
        layout.check_contract(replace(declared, enums=numbers))


def test_licences_lie_beside_the_sources() -> None:
    folder = Path(OBJECT).parent
    assert (folder / "LICENSE.GPL-2.0").exists()
    assert (folder / "LICENSE.BSD-2-Clause").exists()
    for source in [*folder.glob("*.c"), *folder.glob("*.h")]:
        assert "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)" in source.read_text().splitlines()[0]
