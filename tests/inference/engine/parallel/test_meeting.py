"""What several ranks may take together of where they compute."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from inference.engine.device import HOST, Device
from inference.engine.parallel.meeting import with_room
from inference.engine.worker.settings import WorkerSettings
from tests.inference.engine.parallel.threads import Table, ThreadExchange

ROOM_BYTES = 1000


def memory_of_ranks(settings: WorkerSettings, devices: list[Device]) -> list[int]:
    table = Table(len(devices))
    with ThreadPoolExecutor(len(devices)) as threads:
        found = threads.map(
            lambda rank: with_room(settings, devices[rank], ThreadExchange(table, rank)), range(len(devices))
        )
        return [each.memory_bytes for each in found]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """The second has less room."""
    free_bytes = {0: 9_000, 1: 4_000}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (free_bytes[place.index], 16_000))
    return [Device(torch.device("cuda", number)) for number in free_bytes]


def test_every_card_may_be_asked_for_as_much_as_the_one_with_the_least_room(cards: list[Device]) -> None:
    assert memory_of_ranks(WorkerSettings(1, ROOM_BYTES, ranks=2), cards) == [2 * 2_000] * 2


def test_what_the_operator_gives_of_cards_is_for_all_together(cards: list[Device]) -> None:
    settings = WorkerSettings(1, ROOM_BYTES, card_bytes=3_000, ranks=2)
    assert memory_of_ranks(settings, cards) == [3_000] * 2


def test_on_the_processor_it_is_the_memory_of_the_machine() -> None:
    assert (
        memory_of_ranks(WorkerSettings(1, ROOM_BYTES, card_bytes=3_000, ranks=2), [HOST] * 2)
        == [ROOM_BYTES] * 2
    )
