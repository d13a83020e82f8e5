"""One kernel map as a table of byte strings: single and batched access through libbpf.

Batches need a kernel that offers them for the map's type (LPM tries: 5.13); without, the same is done one by one.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from egresslab.datapath.libbpf import BATCH, BPF_ANY, NO_BATCH, Libbpf, get_pinned, map_info

PER_CPU = frozenset({"counters", "record_budgets"})


class Table:
    """Keys and values of fixed size. `per_cpu` values arrive as one string per possible CPU, each padded to 8 bytes."""

    def __init__(
        self, libbpf: Libbpf, name: str, fd: int, key_size: int, value_size: int, per_cpu: bool = False
    ) -> None:
        self.name = name
        self.fd = fd
        self.key_size = key_size
        cpus = libbpf.library.libbpf_num_possible_cpus() if per_cpu else 1
        self.value_size = (value_size + 7) // 8 * 8 * cpus if per_cpu else value_size
        self._libbpf = libbpf
        self._calls = libbpf.library

    def get(self, key: bytes, flags: int = 0) -> bytes | None:
        """The value; with BPF_F_LOCK as it was at one moment, where the value has a lock."""
        value = ctypes.create_string_buffer(self.value_size)
        if self._calls.bpf_map_lookup_elem_flags(self.fd, key, value, ctypes.c_uint64(flags)):
            if ctypes.get_errno() == errno.ENOENT:
                return None
            raise self._failure("cannot read")
        return value.raw

    def put(self, key: bytes, value: bytes, mode: int = BPF_ANY) -> bool:
        """Write one element; False when `mode` forbids it because the key is there."""
        if self._calls.bpf_map_update_elem(self.fd, key, value, ctypes.c_uint64(mode)):
            if ctypes.get_errno() == errno.EEXIST:
                return False
            raise self._failure("cannot write")
        return True

    def delete(self, key: bytes) -> bool:
        """Remove one element; False when it was not there."""
        if self._calls.bpf_map_delete_elem(self.fd, key):
            if ctypes.get_errno() == errno.ENOENT:
                return False
            raise self._failure("cannot delete")
        return True

    def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Write in batches."""
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            count = ctypes.c_uint32(len(part))
            keys = b"".join(key for key, _ in part)
            values = b"".join(value for _, value in part)
            if self._calls.bpf_map_update_batch(self.fd, keys, values, ctypes.byref(count), None):
                if ctypes.get_errno() not in NO_BATCH:
                    raise self._failure("cannot write")
                for key, value in part:
                    self.put(key, value)

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Remove; how many were there. One by one: a batch stops at the first key that is gone already."""
        return sum(self.delete(key) for key in keys)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every element. Elements that come or go meanwhile may be seen or not, as with any dump of a live map."""
        batched = self._items_batched()
        return self._items_single() if batched is None else iter(batched)

    def batches(self, size: int = BATCH) -> Iterator[list[tuple[bytes, bytes]]]:
        """Every element, about `size` at a time, so that the caller may do other things in between; as with `items`,
        what comes or goes meanwhile may be seen or not. A map whose buckets exceed `size` is read at once."""
        cursor: ctypes.Array[ctypes.c_char] | None = None
        while True:
            following = ctypes.create_string_buffer(max(self.key_size, 8))
            keys = ctypes.create_string_buffer(size * self.key_size)
            values = ctypes.create_string_buffer(size * self.value_size)
            count = ctypes.c_uint32(size)
            result = self._calls.bpf_map_lookup_batch(
                self.fd, cursor, following, keys, values, ctypes.byref(count), None
            )
            code = ctypes.get_errno()
            if result and code != errno.ENOENT:
                # What was given already is given again: better twice than not at all.
                everything = list(self.items())
                for start in range(0, len(everything), size):
                    yield everything[start : start + size]
                return
            raw_keys, raw_values = keys.raw, values.raw
            yield [
                (
                    raw_keys[i * self.key_size : (i + 1) * self.key_size],
                    raw_values[i * self.value_size : (i + 1) * self.value_size],
                )
                for i in range(count.value)
            ]
            if result:
                return
            cursor = following

    def _items_batched(self) -> list[tuple[bytes, bytes]] | None:
        """None when the kernel has no batches for this type, or a bucket exceeds a batch."""
        found: list[tuple[bytes, bytes]] = []
        keys = ctypes.create_string_buffer(BATCH * self.key_size)
        values = ctypes.create_string_buffer(BATCH * self.value_size)
        cursor: ctypes.Array[ctypes.c_char] | None = None
        following = ctypes.create_string_buffer(max(self.key_size, 8))
        while True:
            count = ctypes.c_uint32(BATCH)
            result = self._calls.bpf_map_lookup_batch(
                self.fd, cursor, following, keys, values, ctypes.byref(count), None
            )
            code = ctypes.get_errno()
            if result and code != errno.ENOENT:
                return None
            raw_keys, raw_values = keys.raw, values.raw
            found.extend(
                (
                    raw_keys[i * self.key_size : (i + 1) * self.key_size],
                    raw_values[i * self.value_size : (i + 1) * self.value_size],
                )
                for i in range(count.value)
            )
            if result:
                return found
            cursor, following = following, ctypes.create_string_buffer(max(self.key_size, 8))

    def _items_single(self) -> Iterator[tuple[bytes, bytes]]:
        key: bytes | None = None
        following = ctypes.create_string_buffer(self.key_size)
        while not self._calls.bpf_map_get_next_key(self.fd, key, following):
            key = following.raw
            value = self.get(key)
            if value is not None:
                yield key, value

    def _failure(self, what: str) -> Exception:
        code = ctypes.get_errno()
        fix = None
        if code in (errno.E2BIG, errno.ENOSPC):
            what = f"{what}: the map is full"
            fix = "open the datapath with a larger size for this map"
        return self._libbpf.failure(what, code, object=f"map {self.name}", fix=fix)


def open_table(libbpf: Libbpf, pin_dir: Path, name: str) -> Table | None:
    """One pinned map, without loading anything; None when it is not there. The caller closes its `fd`."""
    fd = get_pinned(libbpf, pin_dir / name)
    return None if fd is None else table_of(libbpf, name, fd)


def table_of(libbpf: Libbpf, name: str, fd: int) -> Table:
    """A map behind an open descriptor."""
    info = map_info(libbpf, fd)
    return Table(libbpf, name, fd, info.key_size, info.value_size, per_cpu=name in PER_CPU)
