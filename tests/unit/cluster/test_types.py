"""What the API server knows of Kubernetes' types without the official client says what the client says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity as official

from egresslab.cluster.apiserver import types
from egresslab.cluster.apiserver.modelling import read
from egresslab.cluster.quantities import parse_quantity

NUMBERS = st.from_regex(r"[+-]?([0-9]{1,12}(\.[0-9]{0,6})?|\.[0-9]{1,6})", fullmatch=True)
SUFFIXES = st.sampled_from(["", *"numkMGTPE", *(f"{prefix}i" for prefix in "KMGTPE"), "e3", "E-2", "e+5"])


@given(NUMBERS, SUFFIXES)
def test_a_quantity_is_what_it_is_to_the_official_client(number: str, suffix: str) -> None:
    assert parse_quantity(number + suffix) == official(number + suffix)


@pytest.mark.parametrize("text", ["", "m", "1 Gi", "ten", "1Gib", "1ki", "1mi", "--1", "1.2.3", "NaN", "1e"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(text)


def test_numbers_are_quantities() -> None:
    assert parse_quantity(2) == Decimal(2)


PROGRAM = """
import json, sys
from pathlib import Path
from egresslab.cluster.apiserver import types
types._file = lambda: Path(sys.argv[1])
if sys.argv[2] == "keep":
    types.keep()
pod = types.components("V1Pod")
print(json.dumps({"schemas": pod, "client": "kubernetes" in sys.modules}))
"""


def _run(file: Path, what: str) -> dict[str, object]:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file), what], check=True, capture_output=True, text=True, env=os.environ
    )
    found: dict[str, object] = json.loads(answer.stdout)
    return found


def test_kept_schemas_are_the_models_and_need_no_client(tmp_path: Path) -> None:
    file = tmp_path / "schemas.json"
    first, second = _run(file, "keep"), _run(file, "read")
    assert (first["client"], second["client"]) == (True, False)
    assert first["schemas"] == second["schemas"]
    _, schemas = orjson.loads(file.read_bytes())
    assert len(schemas) > 200
    for model in ("V1Pod", "V1PodSpec", "V1DeploymentSpec", "CoreV1Event"):
        assert schemas[model] == orjson.loads(orjson.dumps(read(model)))


@pytest.mark.parametrize("content", [b"", b"[]", b'[["0.0.0"], {}]', b"{", b"1"])
def test_kept_schemas_of_other_sources_count_for_nothing(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "schemas.json"
    file.write_bytes(content)
    monkeypatch.setattr(types, "_file", lambda: file)
    types._kept.cache_clear()
    try:
        assert types._kept() == {}
    finally:
        monkeypatch.undo()
        types._kept.cache_clear()
