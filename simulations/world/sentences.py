"""What has to hold in every world, whatever befalls it: the names of the invariants and the sentences they enforce."""

from __future__ import annotations

from typing import Final

FALSE_DEATH: Final = "no-false-death"
DEATH_KNOWN: Final = "deaths-known"
WITNESSES: Final = "S8-witnesses"
INCARNATIONS: Final = "S8-incarnations"
OVERLAY: Final = "views-connected"
HEALED: Final = "L1"
DELIVERY: Final = "L6"
BOUNDS: Final = "S13"
PLANS: Final = "L3"

SENTENCES: Final = {
    FALSE_DEATH: "Nobody who runs, is reached and was not stopped for a second is called dead.",
    DEATH_KNOWN: "Every node that runs and is reached knows of a death within the bound.",
    WITNESSES: "Nobody is called dead on the word of fewer monitors than it takes, unless by a node that sees it itself.",
    INCARNATIONS: "What a node holds of another only grows, and nobody's incarnation is above its own.",
    OVERLAY: "Gossip links join all nodes that run and are reached, but for two seconds at most.",
    HEALED: "Twenty seconds after the last fault everybody who runs is alive in every view, and nobody else is.",
    DELIVERY: "Of the words said in an undisturbed mesh 99.9 % are everywhere within two seconds.",
    BOUNDS: "Tables and views stay within their limits.",
    PLANS: "In a settled mesh any two nodes make the same plan of what they have heard.",
}
