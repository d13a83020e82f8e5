"""The few calls of libbpf that we need, over the system's `libbpf.so.1`.

libbpf does the work that must be exact (relocation, BTF, map creation, loading); this module only gives its calls
Python types and turns errors into DatapathError. It knows nothing of our maps.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egresslab.errors import DatapathError

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_F_LOCK = 4
BATCH = 4_096
"""Elements a batch call carries."""
ENOTSUPP = 524
"""The kernel's own "operation not supported" (include/linux/errno.h), which userspace has no name for."""
NO_BATCH = frozenset({errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP})

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_POINTERS = (
    "bpf_object__open_file",
    "bpf_object__find_map_by_name",
    "bpf_object__find_program_by_name",
    "bpf_object__next_map",
    "bpf_map__name",
    "bpf_object__btf",
    "btf__raw_data",
    "btf__load_from_kernel_by_id",
    "ring_buffer__new",
)


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says about a map (`struct bpf_map_info`, linux/bpf.h)."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf_id: int
    id: int = 0


class Libbpf:
    """The library with its messages captured, so that an error can quote the verifier."""

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError as error:
            raise DatapathError("libbpf.so.1 is missing", fix="apt-get install libbpf1") from error
        for name in _POINTERS:
            getattr(self.library, name).restype = ctypes.c_void_p
        self.library.bpf_map__name.restype = ctypes.c_char_p
        self._libc = ctypes.CDLL(None)
        self.messages: list[str] = []
        self._print = _PRINT(self._collect)
        self.library.libbpf_set_print(self._print)

    def _collect(self, level: int, text: bytes, arguments: int) -> int:
        if level <= 1:
            buffer = ctypes.create_string_buffer(65_536)
            self._libc.vsnprintf(buffer, ctypes.c_size_t(len(buffer)), text, ctypes.c_void_p(arguments))
            self.messages.append(buffer.value.decode(errors="replace").rstrip())
        return 0

    def failure(self, what: str, code: int, *, object: str | None = None, fix: str | None = None) -> DatapathError:
        """An error that carries what libbpf and the verifier said since the last one."""
        said, self.messages = "\n  ".join(self.messages[-20:]), []
        text = f"{what}: {os.strerror(abs(code))}"
        return DatapathError(f"{text}\n  {said}" if said else text, object=object, fix=fix)

    def create_array(self, name: str, value_size: int) -> int:
        """A one-element array map; its descriptor."""
        fd = int(self.library.bpf_map_create(2, name[:15].encode(), 4, value_size, 1, None))
        if fd < 0:
            raise self.failure("cannot create a map", ctypes.get_errno(), object=name)
        return fd


def raise_memlock() -> None:
    """Before 5.11 maps are charged to RLIMIT_MEMLOCK. Later kernels do not look at it, and a container may lack the
    right to raise it (CAP_SYS_RESOURCE): if it was needed, creating the first map says so."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Object:
    """An opened, not yet loaded object file. A context manager: closing frees it, loaded programs and maps that were
    pinned or whose descriptors were duplicated stay."""

    def __init__(self, libbpf: Libbpf, path: Path) -> None:
        self._libbpf = libbpf
        self._path = path
        self._pointer = libbpf.library.bpf_object__open_file(str(path).encode(), None)
        if not self._pointer:
            raise libbpf.failure("cannot open the eBPF object", ctypes.get_errno(), object=str(path), fix="make setup")

    def __enter__(self) -> Object:
        return self

    def __exit__(self, *_: object) -> None:
        self._libbpf.library.bpf_object__close(ctypes.c_void_p(self._pointer))

    def btf(self) -> bytes:
        """Raw BTF of the object (Documentation/bpf/btf.rst)."""
        library = self._libbpf.library
        return _raw_btf(library, library.bpf_object__btf(ctypes.c_void_p(self._pointer)))

    def maps(self) -> Iterator[tuple[str, Map]]:
        """Name and handle of every map of the object."""
        library, current = self._libbpf.library, None
        while current := library.bpf_object__next_map(ctypes.c_void_p(self._pointer), ctypes.c_void_p(current)):
            yield library.bpf_map__name(ctypes.c_void_p(current)).decode(), Map(self._libbpf, current)

    def load(self) -> None:
        """Create the maps, verify and load the programs. Raises DatapathError with the verifier's words."""
        result = self._libbpf.library.bpf_object__load(ctypes.c_void_p(self._pointer))
        if result:
            raise self._libbpf.failure(
                "the kernel refused the programs", result, object=str(self._path), fix="egresslab doctor"
            )

    def program_fd(self, name: str) -> int:
        """Descriptor of a loaded program, owned by the object."""
        library = self._libbpf.library
        program = library.bpf_object__find_program_by_name(ctypes.c_void_p(self._pointer), name.encode())
        if not program:
            raise self._libbpf.failure("no such program", errno.ENOENT, object=name)
        return int(library.bpf_program__fd(ctypes.c_void_p(program)))


class Map:
    """A map of an object, before or after loading."""

    def __init__(self, libbpf: Libbpf, pointer: int) -> None:
        self._libbpf = libbpf
        self._pointer = ctypes.c_void_p(pointer)

    @property
    def fd(self) -> int:
        return int(self._libbpf.library.bpf_map__fd(self._pointer))

    def set_max_entries(self, entries: int) -> None:
        self._check(self._libbpf.library.bpf_map__set_max_entries(self._pointer, entries), "cannot size a map")

    def reuse(self, fd: int) -> None:
        """Use an existing map instead of creating one."""
        self._check(self._libbpf.library.bpf_map__reuse_fd(self._pointer, fd), "cannot adopt a map")

    def expected(self) -> MapInfo:
        """What the object asks for."""
        library, pointer = self._libbpf.library, self._pointer
        return MapInfo(
            type=library.bpf_map__type(pointer),
            key_size=library.bpf_map__key_size(pointer),
            value_size=library.bpf_map__value_size(pointer),
            max_entries=library.bpf_map__max_entries(pointer),
            flags=library.bpf_map__map_flags(pointer),
            btf_id=0,
        )

    def _check(self, result: int, what: str) -> None:
        if result:
            raise self._libbpf.failure(what, result)


def _raw_btf(library: ctypes.CDLL, btf: int | None) -> bytes:
    if not btf:
        return b""
    size = ctypes.c_uint32()
    data = library.btf__raw_data(ctypes.c_void_p(btf), ctypes.byref(size))
    return ctypes.string_at(data, size.value)


def pinned_btf(libbpf: Libbpf, btf_id: int) -> bytes:
    """Raw BTF that a loaded map was made with; empty when it has none."""
    library = libbpf.library
    btf = library.btf__load_from_kernel_by_id(btf_id) if btf_id else None
    try:
        return _raw_btf(library, btf)
    finally:
        if btf:
            library.btf__free(ctypes.c_void_p(btf))


def map_info(libbpf: Libbpf, fd: int) -> MapInfo:
    """`BPF_OBJ_GET_INFO_BY_FD` of a map."""
    words = (ctypes.c_uint32 * 32)()
    size = ctypes.c_uint32(ctypes.sizeof(words))
    result = libbpf.library.bpf_obj_get_info_by_fd(fd, words, ctypes.byref(size))
    if result:
        raise libbpf.failure("cannot inspect a map", result)
    return MapInfo(words[0], words[2], words[3], words[4], words[5], words[16], id=words[1])


def get_pinned(libbpf: Libbpf, path: Path) -> int | None:
    """Descriptor of what is pinned at `path`, to be closed by the caller; None when there is nothing."""
    fd = int(libbpf.library.bpf_obj_get(str(path).encode()))
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    if code == errno.ENOENT:
        return None
    raise libbpf.failure("cannot open a pin", code, object=str(path), fix="remove the file, or mount a bpffs there")


def pin(libbpf: Libbpf, fd: int, path: Path) -> None:
    """Pin, taking the place of what is pinned at `path` in one step (bpffs renames like any file system)."""
    fresh = path.with_name(f"{path.name}-new")
    fresh.unlink(missing_ok=True)
    if libbpf.library.bpf_obj_pin(fd, str(fresh).encode()):
        raise libbpf.failure(
            "cannot pin", ctypes.get_errno(), object=str(path), fix=f"mount -t bpf bpf {path.parent.parent}"
        )
    fresh.rename(path)
