"""The names the embedded world is made of: words of titles, and what films can be.

A *hidden* factor is a property that the catalogue does not show but the world's texts state.
``palette`` repeats ``mood`` in other words (redundant) and ``stock`` is the same for every film
(homogenised): they are there so that a knowledge filter has something to mute.
No value is part of another value's text, so that an answer is read by plain containment.
"""

from dataclasses import dataclass
from typing import Final

GENRES: Final = (
    "Drama",
    "Comedy",
    "Thriller",
    "Western",
    "Romance",
    "Fantasy",
    "Mystery",
    "Adventure",
)
AGE_GROUPS: Final = ("under 25", "25-34", "35-49", "50 and over")
REGIONS: Final = ("north", "east", "south", "west")


@dataclass(frozen=True, kw_only=True)
class HiddenFactor:
    """One factor: its possible values and how a text states a film's or a viewer's value.

    ``fact`` and ``preference`` hold one ``{}`` for the value; ``unclear`` is said of a viewer who
    liked nothing.
    """

    values: tuple[str, ...]
    fact: str
    preference: str
    unclear: str


HIDDEN_FACTORS: Final[dict[str, HiddenFactor]] = {
    "director": HiddenFactor(
        values=(
            "Ada Lind",
            "Bruno Castell",
            "Chiara Voss",
            "Dmitri Halloway",
            "Esther Okoro",
            "Felix Marchetti",
            "Greta Sandoval",
            "Hugo Tanaka",
        ),
        fact="The film was directed by {}.",
        preference="This viewer prefers films directed by {}.",
        unclear="This viewer has no favourite director yet.",
    ),
    "mood": HiddenFactor(
        values=("gloomy", "playful", "eerie", "tender", "tense", "serene"),
        fact="The film has a {} mood.",
        preference="This viewer prefers films with a {} mood.",
        unclear="This viewer has no favourite mood yet.",
    ),
    "theme": HiddenFactor(
        values=("revenge", "friendship", "ambition", "exile", "forgiveness", "greed"),
        fact="The film is about {}.",
        preference="This viewer prefers films about {}.",
        unclear="This viewer has no favourite theme yet.",
    ),
    "setting": HiddenFactor(
        values=(
            "a harbour town",
            "a desert",
            "a great city",
            "a mountain village",
            "an island",
            "a space station",
        ),
        fact="The film takes place in {}.",
        preference="This viewer prefers films that take place in {}.",
        unclear="This viewer has no favourite setting yet.",
    ),
    "pace": HiddenFactor(
        values=("slow", "steady", "brisk", "frantic"),
        fact="The film is told at a {} pace.",
        preference="This viewer prefers films told at a {} pace.",
        unclear="This viewer has no favourite pace yet.",
    ),
    "palette": HiddenFactor(
        values=(
            "dark greys",
            "bright yellows",
            "cold greens",
            "soft pinks",
            "sharp reds",
            "pale blues",
        ),
        fact="The film is shot in {}.",
        preference="This viewer prefers films shot in {}.",
        unclear="This viewer has no favourite palette yet.",
    ),
    "stock": HiddenFactor(
        values=("35 mm film",),
        fact="The film was made on 35 mm film.",
        preference="This viewer prefers films made on 35 mm film.",
        unclear="This viewer prefers films made on 35 mm film.",
    ),
}
TASTE_FACTORS: Final = ("director", "mood", "theme", "setting", "pace")
"""The hidden factors that decide what viewers like."""
REDUNDANT: Final = {"palette": "mood"}
"""Factor → the factor it repeats, value by value."""
HOMOGENISED: Final = ("stock",)

_NAME_BEGINNINGS: Final = (
    *("Bel", "Cor", "Dal", "Fen", "Gar", "Hal", "Jor", "Kel", "Lor", "Mar"),
    *("Nor", "Ost", "Pel", "Quin", "Ros", "Sel", "Tor", "Ul", "Ver", "Wil"),
)
_NAME_ENDINGS: Final = (
    *("bury", "dale", "eth", "ford", "gard", "holm", "ia", "landa"),
    *("mere", "mont", "ora", "stead", "ton", "vale", "wick"),
)
TITLE_NAMES: Final = tuple(
    beginning + ending for beginning in _NAME_BEGINNINGS for ending in _NAME_ENDINGS
)
"""Invented names; a title is a name and a noun, and most names stand in two titles."""
# fmt: off
TITLE_NOUNS: Final = (
    "Harbor", "Lantern", "Orchard", "River", "Bridge", "Garden", "Mirror", "Compass", "Anchor",
    "Violin", "Letter", "Shadow", "Feather", "Tower", "Canyon", "Meadow", "Falcon", "Sparrow",
    "Tiger", "Wolf", "Raven", "Swan", "Horse", "Serpent", "Crown", "Throne", "Sword", "Shield",
    "Banner", "Drum", "Bell", "Clock", "Station", "Railway", "Carriage", "Voyage", "Journey",
    "Passage", "Horizon", "Tide", "Storm", "Thunder", "Rain", "Snow", "Ember", "Ash", "Smoke",
    "Flame", "Stranger", "Widow", "Captain", "Painter", "Dancer", "Gambler", "Sailor", "Soldier",
    "Doctor", "Teacher", "Brother", "Sister", "Promise", "Bargain", "Verdict", "Alibi", "Wager",
    "Masquerade", "Carnival", "Festival", "Wedding", "Funeral", "Reunion", "Farewell",
)
# fmt: on
