"""How fast 1,000 gossip machines hear of something, in virtual time, one process and no network."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from tests.benchmarks.figures import Figure, percentile
from tests.mesh.gossip.meshes import World

NODES: Final = 1000
AUTHORS: Final = 4
WORDS: Final = 20  # so that most of them go along trees that stand
LOSS: Final = 0.01
HEARD_BY: Final = 0.999


def measure_spread(say: Callable[[str], None]) -> Figure:
    """The time by which 99.9 % of all (word, node) pairs are together."""
    times_s = spread(NODES, AUTHORS, WORDS, LOSS, seed=3)
    say(f"of {len(times_s)} deliveries half within {percentile(times_s, 0.5):.3f} s")
    spread_s = {"p50": round(percentile(times_s, 0.5), 3), "max": round(max(times_s), 3)}
    return Figure(
        "gossip_1000_delivery_s", round(percentile(times_s, HEARD_BY), 3), "s", len(times_s), spread_s
    )


def spread(nodes: int, authors: int, words: int, loss: float, seed: int) -> list[float]:
    """For every word and node, how long it took; 60 s where it never came. Latencies are 5 to 60 ms."""
    world = World(seed=seed, loss=loss)
    peers = world.add(nodes)
    world.introduce(peers, peers)
    world.run(5)
    random = Random(seed)
    speakers = random.sample(peers, authors)
    said = []
    for number in range(words):
        author, key = speakers[number % authors], f"word {number}"
        world.publish(author, key)
        said.append((author, key, world.now))
        world.run(0.25)
    world.run(5)
    return [
        world.heard[peer].get((author, key), at_s + 60) - at_s for author, key, at_s in said for peer in peers
    ]
