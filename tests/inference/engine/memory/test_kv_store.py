"""What a cache promises whichever way its rows lie, and what pages promise besides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from inference.engine.device import Device
from inference.engine.memory.kv_store import KvPart, KvStore, SessionKv, SlotStore
from inference.engine.memory.pages import PagedStore
from inference.model.blocks import LayerKv
from inference.model.kv_form import make_form
from inference.model.paged import PAGE_ROWS, PagedLayer
from inference.model.precision import KV_KINDS
from tests.inference.engine.checkpoints import parsed

CONFIG = parsed()
LAYERS = 2
PLAIN, ROUNDED = (make_form(kv, torch.float32) for kv in KV_KINDS)
CPU = Device(torch.device("cpu"))
Make = Callable[[], KvStore]
STORES: dict[str, Make] = {
    "slots": lambda: SlotStore(CONFIG, LAYERS, PLAIN),
    "pages": lambda: PagedStore(CONFIG, LAYERS, PLAIN, CPU),
    "slots in 8 bit": lambda: SlotStore(CONFIG, LAYERS, ROUNDED),
    "pages in 8 bit": lambda: PagedStore(CONFIG, LAYERS, ROUNDED, CPU),
}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> KvStore:
    return STORES[request.param]()


def numbers(rows: int, seed: int = 0) -> Tensor:
    """Keys and values of so many rows, [layers, 2, kv_heads, rows, head_dim]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, 2, CONFIG.kv_heads, rows, CONFIG.head_dim, generator=generator)


def lying(store: KvStore, rows: Tensor) -> Tensor:
    """The same rows as they lie there."""
    return torch.stack(
        [
            torch.stack(store.form.stored(*(each.transpose(0, 1) for each in layer))).transpose(1, 2)
            for layer in rows
        ]
    )


def write(store: KvStore, kv: SessionKv, rows: Tensor) -> None:
    """What a step does whose rows have these keys and values."""
    count = rows.shape[3]
    layers = store.step([KvPart(kv, kv.rows, count)])
    for index in range(LAYERS):
        keys, values = (each.transpose(0, 1) for each in rows[index])
        layer = layers(index)
        if isinstance(layer, PagedLayer):
            queries = torch.zeros(count, CONFIG.heads, CONFIG.head_dim)
            layer.attend(queries, keys, values, 0, 1.0, 0.0)
        else:
            assert isinstance(layer, list)
            slots: LayerKv = layer[0]
            slots.write(kv.rows, keys, values)
    kv.rows += count


def test_rows_come_back_as_they_were_written_or_appended(store: KvStore) -> None:
    kv, written = store.open(200), numbers(150)
    rows = lying(store, written)
    write(store, kv, written[:, :, :, :70])
    kv.append(rows[:, :, :, 70:])
    assert kv.rows == 150
    assert torch.equal(kv.copied(0, 150), rows)
    assert torch.equal(kv.copied(60, 131), rows[:, :, :, 60:131])


def test_what_is_cut_off_is_written_anew(store: KvStore) -> None:
    kv, rows = store.open(200), lying(store, numbers(150))
    kv.append(rows)
    kv.truncate(61)
    write(store, kv, numbers(20, seed=1))
    assert kv.rows == 81
    assert torch.equal(kv.copied(0, 61), rows[:, :, :, :61])
    assert torch.equal(kv.copied(61, 81), lying(store, numbers(20, seed=1)))


def test_a_copy_outlives_its_session_and_goes_on_in_another(store: KvStore) -> None:
    first = store.open(128)
    first.append(lying(store, numbers(128)))
    copied = first.copied(0, 128)
    first.close()
    second = store.open(150)
    second.append(copied)
    assert torch.equal(second.copied(0, 128), lying(store, numbers(128)))


def test_sessions_do_not_lie_in_each_other(store: KvStore) -> None:
    kvs = [store.open(100) for _ in range(3)]
    for seed, kv in enumerate(kvs):
        write(store, kv, numbers(100, seed))
    kvs.pop(1).close()
    kvs.append(store.open(100))
    write(store, kvs[-1], numbers(100, 3))
    for seed, kv in zip((0, 2, 3), kvs, strict=True):
        assert torch.equal(kv.copied(0, 100), lying(store, numbers(100, seed)))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300), st.integers(0, 300)), max_size=25))
def test_free_pages_are_zero_none_is_lent_twice_and_none_is_left(
    turns: list[tuple[bool, int, int]],
) -> None:
    store = PagedStore(CONFIG, LAYERS, PLAIN, CPU, lambda: 1 << 20)
    kvs = []
    for opens, rows_max, cut in turns:
        if opens:
            kvs.append(store.open(rows_max))
            kvs[-1].append(numbers(rows_max))
            kvs[-1].truncate(min(cut, rows_max))
        elif kvs:
            kvs.pop(cut % len(kvs)).close()
        lent = [page for kv in kvs for page in kv.pages]
        assert len(set(lent)) == len(lent) == store.pool.in_use
        used = {page * PAGE_ROWS + row for kv in kvs for page in kv.pages for row in range(PAGE_ROWS)}
        free = [slot for slot in range(store.pool.pages * PAGE_ROWS) if slot not in used]
        for layer in store.pool.layers:
            assert not layer.keys[free].any()
            assert not layer.values[free].any()
        for kv in kvs:
            slots = [page * PAGE_ROWS + row for page in kv.pages for row in range(PAGE_ROWS)]
            assert not store.pool.layers[0].values[slots[kv.rows :]].any()
    for kv in kvs:
        kv.close()
    assert (store.pool.in_use, store.pool.pages) == (0, 0)
    assert len(store.pool.layers[0].keys) == 0


def test_a_pool_grows_to_twice_its_size_where_the_budget_has_the_room() -> None:
    page_bytes = LAYERS * 2 * PAGE_ROWS * CONFIG.kv_heads * CONFIG.head_dim * 4
    for room_pages, pages in ((0, 5), (2, 7), (100, 8)):
        room_bytes = 0
        store = PagedStore(CONFIG, LAYERS, PLAIN, CPU, lambda: room_bytes)  # noqa: B023
        store.open(3 * PAGE_ROWS).append(numbers(100))
        room_bytes = room_pages * page_bytes
        store.open(PAGE_ROWS + 1)
        assert (store.pool.in_use, store.pool.pages) == (5, pages)


def test_a_pool_whose_device_is_full_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    store = PagedStore(CONFIG, LAYERS, PLAIN, CPU)
    kv = store.open(64)
    kv.append(numbers(64))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no memory"):
        patch.setattr(store.pool.layers[1], "resize", refuse)
        store.open(64)
    assert store.pool.in_use == 1
    assert torch.equal(kv.copied(0, 64), numbers(64))
    other = store.open(64)
    other.append(numbers(64, 1))
    assert torch.equal(other.copied(0, 64), numbers(64, 1))
    assert torch.equal(kv.copied(0, 64), numbers(64))


def refuse(_pages: int) -> None:
    raise RuntimeError("the card has no memory left")
