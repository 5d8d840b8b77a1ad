"""Controls: libraries that cannot teach a task anything, made in the likeness of one that should.

An agent may do better, or worse, merely because its prompt is longer, or because it is told to mind lessons at all. An
arm of a comparison that has as much text and no knowledge shows how much of a gain is due to that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from tokenprior.experience import Experience, Provenance, count_words
from tokenprior.library import Library

# Of domains in which nobody sets tasks for language models; each with the form of a lesson, and of several lengths.
PLACEBOS: tuple[tuple[str, str], ...] = (
    ("Dry soil", "When the soil is dry, water the beans."),
    ("First frost", "When frost is near, cover the dahlias."),
    ("Full sails", "When the sails are full, ease the sheet a little."),
    ("Sticky dough", "When the dough sticks to your hands, dust the board with flour."),
    ("Dull knife", "When a knife slips on a tomato, draw it over the whetstone."),
    ("Hive in spring", "When bees carry pollen in spring, leave the hive closed."),
    ("Slack line", "When the mooring line goes slack, take it in by one turn."),
    ("Ripe pears", "When a pear comes off the branch at a gentle lift, pick the tree."),
    ("Boiling milk", "When milk begins to rise in the pan, take it off the flame and stir it."),
    ("Wet firewood", "When the firewood hisses, stack it under the roof and let it dry until next winter."),
    ("Rising fog", "When fog rises over the bay, sound the horn every two minutes and keep to the buoys."),
    ("Stale bread", "When bread has gone stale, soak it in milk and bake a pudding with raisins from it."),
    ("Loose stitches", "When the stitches of a scarf grow loose, change to a needle that is one size thinner."),
    ("Rose cuttings", "When roses have finished flowering, cut the stems above the first leaf with five leaflets."),
    ("Tired horse", "When a horse hangs its head on the way home, walk beside it for the last mile."),
    ("Cracked glaze", "When the glaze cracks in the kiln, let the next batch cool with the door shut for a day."),
    ("Curdled sauce", "When a sauce curdles, beat a fresh yolk in a warm bowl and add the sauce drop by drop."),
    ("Blunt skates", "When skates slide sideways on hard ice, have both edges ground before you go out again."),
    ("Mossy roof", "When moss covers the northern side of a roof, brush it off on a dry day in late autumn."),
    ("Snails at night", "When snails eat the lettuce at night, lay a board beside the bed and turn it over at dawn."),
    ("Wind from the east", "When the wind turns to the east before sunset, put out a second anchor and stay aboard."),
    (
        "Heavy rucksack",
        "When a rucksack pulls at the shoulders, pack the tent close to your back and the bread on top.",
    ),
    (
        "Bitter coffee",
        "When coffee tastes bitter, grind the beans coarser and pour the water a little cooler than before.",
    ),
    (
        "Old violin",
        "When an old violin sounds thin in winter, put a bowl of water into the room and tune it again later.",
    ),
    (
        "Fallen soufflé",
        "When a soufflé falls, bake the next one on the lowest rack and keep the oven closed to the end.",
    ),
    (
        "Lambs in rain",
        "When rain is forecast in the week of lambing, bring the ewes under the roof before the evening milking.",
    ),
    (
        "Hard clay",
        "When clay is too hard to be thrown on the wheel, wrap it in a wet cloth and leave it until the next morning.",
    ),
    (
        "Yellow leaves",
        "When the lower leaves of a lemon tree turn yellow, give it iron in the spring and move it away "
        "from the stove.",
    ),
    (
        "Ebb tide",
        "When the ebb runs against the wind at the harbour mouth, wait for slack water and motor out "
        "close to the pier.",
    ),
    (
        "Squeaking stairs",
        "When a stair squeaks in the middle, drive a thin wedge with glue between tread and riser from "
        "below, and let it dry.",
    ),
    (
        "Sour cherries",
        "When sour cherries are ripe but rain is on its way, pick them with their stalks and boil them "
        "down on the same day.",
    ),
    (
        "Mushroom walk",
        "When you find chanterelles under a beech, cut them above the ground, cover the place with "
        "leaves, and tell nobody of it.",
    ),
    (
        "Candle wax",
        "When wax has dripped on a tablecloth, chill it with ice, lift off what breaks, and iron the "
        "rest into brown paper.",
    ),
    (
        "Swarming bees",
        "When a swarm hangs in the apple tree, hold an empty basket under it, shake the branch once, "
        "and set it in the shade.",
    ),
    (
        "Leaking boat",
        "When a wooden boat leaks after a winter ashore, sink it to the gunwale for three days so that "
        "its planks can swell.",
    ),
    (
        "Bow and rosin",
        "When the bow of a cello glides without a sound, rub rosin along its hair in slow strokes and "
        "wipe the strings afterwards.",
    ),
    (
        "Potato field",
        "When the leaves in the potato field wither, wait two weeks, dig on a dry morning, and let the "
        "potatoes lie until noon.",
    ),
    (
        "Felted wool",
        "When a pullover has felted in the wash, soak it in cool water with hair balm, pull it to its "
        "shape, and dry it flat.",
    ),
    (
        "Snow on the pass",
        "When snow closes the pass before you have reached the hut, turn back to the last larches, dig "
        "in out of the wind, and "
        "wait there for the light.",
    ),
    (
        "Sourdough at rest",
        "When sourdough has rested for a night in the cold, let it come to the warmth of the room, fold "
        "it twice, shape a round "
        "loaf, and bake it in iron.",
    ),
)


def placebo(library: Library, *, seed: int) -> Library:
    """As many lessons of other domains, each of about the length of the one whose id and place it takes.

    There are `PLACEBOS` of them: a library of more lessons gets only so many, in place of its first.
    """
    left = random.Random(seed).sample(PLACEBOS, len(PLACEBOS))
    made: list[Experience] = []
    for experience in list(library)[: len(PLACEBOS)]:
        wanted = count_words(experience.line)
        name, text = min(left, key=lambda lesson: abs(_length(lesson, bool(experience.name)) - wanted))
        left.remove((name, text))
        made.append(_in_place_of(experience, name if experience.name else "", text, "Placebo"))
    return Library(experiences=tuple(made))


def shuffled(library: Library, *, seed: int) -> Library:
    """The library's own words dealt out anew over names and lessons of the same numbers of words.

    Words are what white space parts; a language that puts none between its words stays as it is.
    """
    pool = [word for experience in library for part in (experience.name, experience.text) for word in part.split()]
    words = iter(random.Random(seed).sample(pool, len(pool)))
    return Library(
        experiences=tuple(_in_place_of(e, _dealt(words, e.name), _dealt(words, e.text), "Shuffled") for e in library)
    )


def _dealt(words: Iterator[str], in_place_of: str) -> str:
    return " ".join(next(words) for _ in in_place_of.split())


def _length(lesson: tuple[str, str], named: bool) -> int:
    return count_words(": ".join(lesson) if named else lesson[1])


def _in_place_of(experience: Experience, name: str, text: str, operation: str) -> Experience:
    return replace(experience, name=name, text=text, provenance=Provenance(operation=operation), effect=None)
