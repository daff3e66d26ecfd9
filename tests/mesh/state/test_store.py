"""The store keeps what is true and whole, and nothing else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mesh.state.store import WeightStore
from protocols.errors import Dishonest, LocalFault, Malformed
from protocols.ids import TensorDigest
from protocols.manifest import FileEntry, Manifest, TensorEntry, make_manifest

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)
CONFIG = b'{"layers": 1}'


def sha256(data: bytes) -> TensorDigest:
    return TensorDigest(hashlib.sha256(data).hexdigest())


TENSOR = TensorEntry("model.norm.weight", "F32", (3, 4), sha256(ARRAY.tobytes()))
FILE = FileEntry("config.json", len(CONFIG), sha256(CONFIG))
MANIFEST: Manifest = make_manifest([FILE], [TENSOR])


def put_tensor(store: WeightStore, entry: TensorEntry, data: bytes) -> None:
    with store.receive_tensor(entry) as incoming:
        for start in range(0, len(data), 7):
            incoming.write(data[start : start + 7])
        incoming.finish()


def put_file(store: WeightStore, entry: FileEntry, data: bytes) -> None:
    with store.receive_file(entry) as incoming:
        incoming.write(data)
        incoming.finish()


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(str(tmp_path / "weights"))


def kept(store: WeightStore) -> list[Path]:
    return [path for path in Path(store._root).rglob("*") if path.is_file()]


def test_a_tensor_is_there_after_it_came_and_the_worker_can_open_it(store: WeightStore) -> None:
    store.put_manifest(MANIFEST)
    assert not store.has_tensor(TENSOR)
    put_tensor(store, TENSOR, ARRAY.tobytes())
    assert store.has_tensor(TENSOR)
    (place,) = store.tensor_files(MANIFEST.digest, [TENSOR.name])
    with safe_open(place.path, framework="np") as file:
        assert (file.get_tensor(place.key) == ARRAY).all()
    blob = store.blob(MANIFEST.digest, TENSOR.sha256)
    assert blob is not None
    assert blob.read(4, 8) == ARRAY.tobytes()[4:12]
    assert blob.size_bytes == 48


def test_equal_bytes_of_another_shape_are_another_tensor(store: WeightStore) -> None:
    put_tensor(store, TENSOR, ARRAY.tobytes())
    assert not store.has_tensor(TensorEntry("b", "F32", (4, 3), TENSOR.sha256))
    assert not store.has_tensor(TensorEntry("b", "BF16", (6, 4), TENSOR.sha256))
    assert store.has_tensor(TensorEntry("b", "F32", (3, 4), TENSOR.sha256))


@pytest.mark.parametrize(
    "data", [ARRAY.tobytes()[:-1], ARRAY.tobytes() + b"x", ARRAY.tobytes()[::-1], b""], ids=len
)
def test_a_wrong_tensor_is_dishonest_and_leaves_nothing(store: WeightStore, data: bytes) -> None:
    with pytest.raises(Dishonest):
        put_tensor(store, TENSOR, data)
    assert kept(store) == []
    assert not store.has_tensor(TENSOR)


def test_a_transfer_that_breaks_off_goes_on_where_it_was_also_after_a_restart(store: WeightStore) -> None:
    data = ARRAY.tobytes()
    with store.receive_tensor(TENSOR) as incoming:
        incoming.write(data[:20])
    assert not store.has_tensor(TENSOR)
    again = WeightStore(store._root)
    with again.receive_tensor(TENSOR) as incoming:
        assert incoming.have_bytes == 20
        incoming.write(data[20:])
        incoming.finish()
    assert again.has_tensor(TENSOR)
    assert len(kept(again)) == 1


def test_what_was_altered_meanwhile_is_found_out_and_thrown_away(store: WeightStore) -> None:
    data = ARRAY.tobytes()
    with store.receive_tensor(TENSOR) as incoming:
        incoming.write(data[:20])
    (half,) = Path(store._root, "partial").iterdir()
    half.write_bytes(half.read_bytes()[:-1] + b"x")
    with pytest.raises(Dishonest), store.receive_tensor(TENSOR) as incoming:
        incoming.write(data[20:])
        incoming.finish()
    assert kept(store) == []


@pytest.mark.parametrize("left", [b"", b"\x60", b"no head at all, and longer than one" * 9, bytes(4096)])
def test_what_is_no_beginning_of_the_blob_is_begun_anew(store: WeightStore, left: bytes) -> None:
    with store.receive_tensor(TENSOR) as incoming:
        incoming.write(b"half")
    (half,) = Path(store._root, "partial").iterdir()
    half.write_bytes(left)
    put_tensor(store, TENSOR, ARRAY.tobytes())
    assert store.has_tensor(TENSOR)


def test_two_attempts_at_a_time_do_not_mix(store: WeightStore) -> None:
    data = ARRAY.tobytes()
    with store.receive_tensor(TENSOR) as first, store.receive_tensor(TENSOR) as second:
        first.write(data[:20])
        second.write(data)
        second.finish()
        first.write(data[20:])
        first.finish()
    assert store.has_tensor(TENSOR)
    assert len(kept(store)) == 1


def test_of_what_a_crash_left_only_what_can_be_gone_on_with_stays_and_not_without_end(
    store: WeightStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = Path(store._root, "partial")
    (partial / "new-17").write_bytes(b"a manifest")
    for number in range(4):
        (partial / f"{number}").write_bytes(b"half")
        os.utime(partial / f"{number}", (number + 1, number + 1))
    monkeypatch.setattr("protocols.limits.PARTIAL_BLOBS_MAX", 2)
    WeightStore(store._root)
    assert sorted(path.name for path in partial.iterdir()) == ["2", "3"]


def test_a_model_is_listed_once_its_manifest_and_files_are_there(store: WeightStore) -> None:
    assert store.models() == ()
    store.put_manifest(MANIFEST)
    assert store.models() == ()
    with pytest.raises(LocalFault):
        store.small_files(MANIFEST.digest)
    put_file(store, FILE, CONFIG)
    again = WeightStore(store._root)
    assert again.models() == (MANIFEST.digest,)
    assert again.stated(MANIFEST.digest) == MANIFEST
    assert again.small_files(MANIFEST.digest) == {"config.json": CONFIG}
    manifest = again.manifest(MANIFEST.digest)
    assert manifest is not None
    assert manifest.read(0, 1 << 20) == MANIFEST.canonical()


def test_what_is_not_there_is_none_or_a_fault(store: WeightStore) -> None:
    assert store.manifest(MANIFEST.digest) is None
    assert store.blob(MANIFEST.digest, TENSOR.sha256) is None
    store.put_manifest(MANIFEST)
    assert store.blob(MANIFEST.digest, TENSOR.sha256) is None
    for names in ([TENSOR.name], ["model.other"]):
        with pytest.raises(LocalFault, match="not in the store"):
            store.tensor_files(MANIFEST.digest, names)


def test_a_damaged_manifest_is_a_fault_and_not_listed(store: WeightStore) -> None:
    store.put_manifest(MANIFEST)
    Path(store._root, "models", f"{MANIFEST.digest}.json").write_bytes(b"{}")
    again = WeightStore(store._root)
    assert again.models() == ()
    with pytest.raises(LocalFault, match="damaged"):
        again.stated(MANIFEST.digest)


def test_a_tensor_of_an_unknown_type_is_malformed(store: WeightStore) -> None:
    with pytest.raises(Malformed, match="F8"):
        store.receive_tensor(TensorEntry("a", "F8", (1,), TENSOR.sha256))
    assert kept(store) == []


def test_a_folder_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"a file")
    with pytest.raises(LocalFault):
        WeightStore(str(tmp_path / "weights"))
