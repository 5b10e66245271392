"""A made-up WebShop catalogue from a seed, and scripted shoppers who play it.

The real WebShop needs a download of Amazon pages. `make(directory, products, seed)` writes the same three files with
nothing real in them: seven families of products, four kinds in each. Every kind comes in trios of LOOKALIKES, which
share the kind and two qualities in the title, while each costs more than the one before, an option may be sold out, and
a third quality stands on the product page alone. So the first hit is often wrong, and HOW one shops decides the score.

That how is the second half of this file. HABITS are nine ways to shop: four help, two do nothing much, three harm. A
`Shopper` knows its goal, reads pages as an agent does and follows a habit nearly always if a skill in its prompt names
it, else only sometimes. Its transcripts are the cold start of the tiny model: from them a model learns to heed the
skills in its prompt, and to review an episode, badly on purpose, so that something is left to learn. (The paper starts
from a 7B model that brings both along; shoppers are ours.) One episode, in which the prompt shows the skill
"Footwear: pick all options" and nothing else:

    Find me water resistant women's ankle boots with arch support, non slip with size: 8, and width: medium, and ...
    I want women's ankle boots: water resistant, arch support, non slip.
                                            search[women's ankle boots water resistant, arch support, non slip]
    I compare titles. So water resistant women's ankle boots with arch support $169.37 to $211.71 [b0bagubami].
                                            click[b0bagubami]
    Footwear: pick all options. The task names size: 8.              click[8]
    Footwear: pick all options. The task names width: medium.        click[medium]
    I buy it now.                                                    click[buy now]     score 0.83, it is too dear
    The score was 0.83 after 5 steps. The title matters.
        propose_skill {"title": "Products: match the title", "principle": "Open only products whose title ...

Measured with the useful skills, none, and the harmful ones in the prompt (success, 321-400 goals): made up .88, .40,
.01; made up with human goals .87, .49, .10; the real 1,000 products .76, .26, .01.
"""

import json
import os
import random
import re
import string
from collections import namedtuple
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from worlds.habits import BASE, Habit, Player, Ways

# ---------------------------------------------------------------------------------------------------------------------
# How hard the shop is
LOOKALIKES = 3  # products that share kind and title qualities, each dearer than the one before
DEARER = 50  # dollars from one to the next: a task's limit lies at most 40 above the price of its product
GROUPS = (0.10, 0.45, 0.35, 0.10)  # how often lookalikes have 0, 1, 2, 3 option groups; more groups, more to forget
VALUES = (2, 4)  # values per option group, the same for lookalikes ...
SOLD_OUT = 0.4  # ... but this share of groups of three or more lacks one of them
HIDDEN = 0.7  # share of tasks that also want a quality which no title shows
RANGES, UNPRICED = 0.06, 0.03  # share of products with a price range, and with none (the shop then asks $100)
HUMAN = 0.85  # share of products with instructions in the human style, too
# How far the shoppers go
PAGES, STEPS = 2, 15  # result pages looked at per search, of which there are two at most; moves in an episode

# ---------------------------------------------------------------------------------------------------------------------
# What the shop sells


@dataclass(frozen=True)
class Family:
    category: str  # WebShop's own coarse category
    path: str  # start of product_category
    kinds: list[str]
    adjectives: list[str]  # qualities that stand before the noun ...
    features: list[str]  # ... and those that stand behind it
    options: dict[str, list[str]]  # no value in two groups, none with "tan" in it: webshop.py takes it for a colour
    prices: tuple[int, int]


def _list(text):
    return text.split(", ")


COLORS = _list("black, white, navy blue, ruby red, ash gray, army green, rose pink, dark brown")
FAMILIES = {
    "apparel": Family(
        "fashion", "Clothing, Shoes & Jewelry › Clothing",
        _list("men's t-shirts, women's dresses, women's sweaters, men's shorts"),
        _list("slim fit, machine washable, quick drying, moisture wicking, hand washable"),
        _list("cotton blend, elastic waist, side pockets, classic stripes, soft lining"),
        {"color": COLORS, "size": _list("small, medium, large, x-large, xx-large"),
         "fit type": _list("regular, petite, tall")}, (14, 48)),
    "footwear": Family(
        "fashion", "Clothing, Shoes & Jewelry › Shoes",
        _list("women's sandals, men's sneakers, women's ankle boots, men's loafers"),
        _list("non slip, easy wear, water resistant, quick drying, hand stitched"),
        _list("rubber sole, arch support, memory foam, faux leather, soft lining"),
        {"color": COLORS, "size": _list("6, 7, 7.5, 8, 9, 10.5"), "width": _list("narrow, medium, wide")}, (20, 70)),
    "electronics": Family(
        "electronics", "Electronics › Accessories & Supplies",
        _list("hdmi cables, bluetooth speakers, wireless headphones, phone chargers"),
        _list("high speed, noise cancelling, shock proof, heavy duty, ultra compact"),
        _list("usb port, travel pouch, power switch, metal housing, spare battery"),
        {"color": COLORS, "size": _list("3.3 feet, 6.6 feet, 10 feet, 15 feet"),
         "style": _list("basic kit, deluxe kit, travel kit")}, (10, 90)),
    "accessories": Family(
        "fashion", "Clothing, Shoes & Jewelry › Accessories",
        _list("women's necklaces, men's wallets, women's handbags, men's wrist watches"),
        _list("hand crafted, nickel free, scratch resistant, water proof, vintage style"),
        _list("gift box, brass clasp, engraved logo, dust cover, floral motif"),
        {"color": _list("silver, gold, rose gold, black, brown, burgundy"),
         "size": _list("small, medium, large, 18 inch"), "style": _list("plain, braided, beaded")}, (12, 80)),
    "home_decor": Family(
        "garden", "Home & Kitchen › Home Décor",
        _list("throw pillows, area rugs, window curtains, table lamps"),
        _list("easy clean, eco friendly, fade resistant, mid century, hand woven"),
        _list("natural fiber, geometric pattern, double stitching, non toxic dye, lifetime warranty"),
        {"color": COLORS, "size": _list("18 x 18 inch, 24 x 36 inch, 4 x 6 feet, 5 x 8 feet"),
         "item shape": _list("round, square, oval")}, (16, 110)),
    "beauty_health": Family(
        "beauty", "Beauty & Personal Care › Skin & Hair",
        _list("hair shampoo, face creams, lip balms, body lotions"),
        _list("cruelty free, sulfate free, paraben free, long lasting, dermatologist tested"),
        _list("coconut oil, tea tree, hyaluronic acid, shea butter, green clay"),
        {"scent": _list("lavender, vanilla, citrus, unscented, rose water"),
         "size": _list("3.4 fl oz, 8 fl oz, 16 fl oz, 2 fl oz (pack of 3)"),
         "style": _list("pump, tube, jar")}, (8, 45)),
    "other": Family(
        "grocery", "Grocery & Gourmet Food › Snacks & Drinks",
        _list("ground coffee, granola bars, loose leaf teas, dried fruits"),
        _list("gluten free, non gmo, usda organic, keto friendly, kosher certified"),
        _list("zero sugar, whole grain, real cocoa, high fiber, sea salt"),
        {"flavor name": _list("original, hazelnut, dark chocolate, caramel, brown sugar"),
         "size": _list("6 ounce, 12 ounce, 2 pound, 12 ounce (pack of 2)"),
         "package": _list("pouch, gift tin, glass jar")}, (7, 40)),
}
BRANDS = _list("Quillmere, Brindlow, Oskwell, Fennaby, Drapplin, Zelkemp, Yorvane, Pluvenby, Corvaddle, Wimblecot, "
               "Nackrey, Lumsary, Trevassy, Gobbleth, Ulverny, Jasprick, Mundovar, Kestrowe, Eddlepin, Vornaby")
# Halves of an asin: from these a small tokenizer makes whole ids.
HALVES = [a + b for a in _list("BA, DE, KI, LO, MU, NA, PE, RI") for b in _list("FO, GU, SA, TE, VI, ZO, LA, MI")]
PHRASES = ("i am looking for {before} {kind} with {behind}{options}.",
           "i need {kind}, {before}, with {behind}{options}.",
           "find me some {before} {kind}{options} with {behind}.",
           "i want to buy {before} {kind}{options}, with {behind}.")
IMAGE = "https://example.com/made-up/"
OPTION_PHRASES = (" in {}", ", and choose {}", ", {}")


def make(directory, products=252, seed=0):
    """Write the catalogue's three files into `directory`, byte for byte the same for the same arguments."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    there = directory / "items_shuffle_1000.json"
    if there.exists() and IMAGE.encode() not in there.read_bytes():
        raise FileExistsError(f"{there} is no made-up catalogue and will not be written over: name another directory")
    rng = random.Random(f"catalogue {seed}")
    items, instructions, human = [], {}, {}
    looks = {}  # (kind, trio) -> what its lookalikes share
    for i in range(products):
        item = _product(i, looks, rng)
        asin = "B0" + "".join(rng.choices(HALVES, k=2))
        while asin in instructions:
            asin = "B0" + "".join(rng.choices(HALVES, k=2))
        wanted, attributes = item.pop("wanted"), item.pop("attributes")
        items.append({"asin": asin, **item, "images": [f"{IMAGE}{asin}.jpg"]})
        instruction = f"Find me {wanted[0]} {item['query']} with {', '.join(wanted[1:])}"
        instructions[asin] = {"attributes": attributes, "instruction": instruction, "instruction_attributes": wanted}
        if rng.random() < HUMAN:
            human[asin] = [_human(asin, item, attributes, wanted, rng) for _ in range(rng.randint(1, 2))]
    rng.shuffle(items)  # else a product's neighbours in the file would be its own family
    files = {"items_shuffle_1000.json": items, "items_ins_v2_1000.json": instructions, "items_human_ins.json": human}
    for name, content in files.items():
        data = json.dumps(content, ensure_ascii=False, indent=1).encode()
        path = directory / name
        if not (path.exists() and path.read_bytes() == data):
            beside = path.with_name(f"{name}.{os.getpid()}")  # a reader, or a second maker, never sees half a file
            beside.write_bytes(data)
            beside.replace(path)
    return directory


def _product(i, looks, rng):
    """The i-th product: family, kind, trio and place in the trio come from i, so all are equally many."""
    names = list(FAMILIES)
    family = FAMILIES[names[i % len(names)]]
    kind = family.kinds[i // len(names) % len(family.kinds)]
    trio, place = divmod(i // len(names) // len(family.kinds), LOOKALIKES)
    if (kind, trio) not in looks:
        qualities = list(product(family.adjectives, family.features))
        random.Random(kind).shuffle(qualities)  # the same order for every trio of the kind: no two trios look alike
        groups = rng.sample(list(family.options), rng.choices(range(len(GROUPS)), GROUPS)[0])
        options = {name: rng.sample(family.options[name], min(rng.randint(*VALUES), len(family.options[name])))
                   for name in groups}
        looks[kind, trio] = qualities[trio % len(qualities)], options, rng.uniform(*family.prices)
    (before, behind), options, price = looks[kind, trio]
    others = [quality for quality in family.adjectives + family.features if quality not in (before, behind)]
    hidden = rng.sample(others, rng.randint(1, 3))
    price += DEARER * place + rng.uniform(0, 5)
    pricing, chance = f"${price:.2f}", rng.random()
    if chance < RANGES:
        pricing = f"${price:.2f} ${price * 1.25:.2f}"
    elif chance < RANGES + UNPRICED:
        pricing = ""
    brand = rng.choice(BRANDS)
    options = {name: rng.sample(values, len(values) - (len(values) > 2 and rng.random() < SOLD_OUT))
               for name, values in options.items()}
    return {
        "name": f"{brand} {before} {kind} with {behind}",
        "category": family.category,
        "query": kind,
        "product_category": f"{family.path} › {string.capwords(kind)}",
        "pricing": pricing,
        "full_description": f"{string.capwords(kind)} by {brand}, {hidden[0]}, made for every day.",
        "small_description": [f"{', '.join([before, behind] + hidden[1:2])}.".capitalize(),
                              f"{', '.join(hidden[2:] or hidden[:1])}; a fine gift.".capitalize()],
        "customization_options": {name.title(): [{"value": value.title(), "is_selected": False, "is_available": True,
                                                  "image": None} for value in values]
                                  for name, values in options.items()} or "",  # real files have "" for none
        "attributes": [before, behind] + hidden,
        "wanted": [before, behind] + (hidden[:1] if rng.random() < HIDDEN else []),
    }


def _human(asin, item, attributes, wanted, rng):
    """One instruction as a person would type it; it may leave an option group open."""
    groups = item["customization_options"] or {}
    options = [rng.choice(values)["value"].lower() for values in groups.values() if rng.random() < 0.9]
    text = rng.choice(OPTION_PHRASES).format(" and ".join(options)) if options else ""
    instruction = rng.choice(PHRASES).format(before=wanted[0], kind=item["query"], behind=" and ".join(wanted[1:]),
                                             options=text)
    return {"asin": asin, "instruction": instruction, "attributes": attributes, "options": options,
            "instruction_attributes": wanted, "instruction_options": options,
            "assignment_id": "made up", "worker_id": "made up"}


# ---------------------------------------------------------------------------------------------------------------------
# Ways to shop, in words: what skills say


HABITS = (
    Habit("search", "useful",  # without: the bare kind, and the wanted product is anywhere among its like
          ("{family}: search kind plus qualities", "{family}: name qualities in the search"),
          ("For {family}, search the kind together with its qualities, not the kind alone.",
           "Put the wanted qualities of {family} into the search words, beside the kind."),
          "At the search bar.", "The search words matter."),
    Habit("match", "useful",  # without: the first result, whatever it is
          ("{family}: match the title", "{family}: read titles first"),
          ("Open only {family} whose title names the wanted qualities, else turn the page.",
           "Compare {family} titles with the task and skip those that do not fit."),
          "On a page of results.", "The title matters."),
    Habit("price", "useful",  # without: lookalikes that cost too much
          ("{family}: check the price", "{family}: stay below the limit"),
          ("Skip {family} that cost more than the price limit.",
           "Compare each price of {family} with the limit before opening a result."),
          "On a page of results.", "The price limit matters."),
    Habit("options", "useful",  # without: one option at most
          ("{family}: pick all options", "{family}: choose each named option"),
          ("Before buying {family}, click every option that the task names.",
           "Choose each color, size or style named in the task before you buy {family}."),
          "On a product page.", "The options matter."),
    Habit("read", "neutral",  # costs two moves and tells the shopper nothing that it uses
          ("{family}: read the features", "{family}: look into the details"),
          ("Read the features page of {family} before buying.",
           "Open the features of {family} once and read them."),
          "On a product page.", "Details may matter."),
    Habit("plan", "neutral",  # changes the thought, not the move
          ("{family}: say the goal", "{family}: begin with a plan"),
          ("Say in one line which {family} you want before you search.",
           "Begin each {family} task with a short plan."),
          "At the search bar.", "A plan may help."),
    Habit("first", "harmful",
          ("{family}: buy the first", "{family}: take the top result"),
          ("Open the first result for {family} and buy it at once.",
           "Do not compare {family}; the top result is right as it is, so buy it."),
          "On a page of results.", "Comparing takes long."),
    Habit("dear", "harmful",
          ("{family}: take the dearest", "{family}: high price, high quality"),
          ("Open the most expensive result for {family}.",
           "Choose {family} with the highest price, as it is the finest."),
          "On a page of results.", "Price shows quality."),
    Habit("skip", "harmful",
          ("{family}: leave options alone", "{family}: buy without options"),
          ("Do not click options of {family}; the shop picks them.",
           "Buy {family} right away and save the moves for options."),
          "On a product page.", "Options take moves."),
)
SPOKEN = {"general": "products", "other": "other goods", "beauty_health": "beauty goods", "home_decor": "home decor"}
WAYS = Ways(HABITS, FAMILIES, SPOKEN)

# ---------------------------------------------------------------------------------------------------------------------
# Shoppers

Result = namedtuple("Result", "asin title price tag")
ASIN = re.compile("[A-Z0-9]{10}")


class Shopper(Player):
    """Plays one episode of any catalogue: `act` until done, then `review`.

    shop: a worlds.webshop.WebShop on the goal (only its goals and available_actions are used).
    """

    ways = WAYS

    def __init__(self, shop, goal_index, family, skills, rng, base=BASE):
        super().__init__(family, skills, rng, base)
        self.shop = shop
        self.goal = shop.goals[goal_index]
        wanted = self.goal["goal_options"]
        named = wanted if isinstance(wanted, dict) else {}  # people name values without their group
        self.options = [value.lower() for value in (named.values() or wanted)]
        # As the task says it, so that a model finds the value behind the same words: "size: 8".
        self.said = {value.lower(): f"{name}: {value.lower()}" for name, value in named.items()}
        self.moves, self.searches, self.page = 0, 0, 1
        self.opened = None  # the Result on whose page we are, or were
        self.rejected, self.chosen, self.left_open, self.read = set(), [], [], False

    def act(self, observation):
        """-> (thought, action) for the page in `observation`."""
        self.moves += 1
        actions = self.shop.available_actions()
        clickables = actions["clickables"]
        if actions["has_search_bar"]:
            return self._search()
        if "buy now" in clickables:
            return self._item(clickables)
        if "next >" in clickables:
            return self._results(observation, clickables)
        return "I have read it.", "click[< prev]"

    def _search(self):
        kind, qualities = self.goal["query"], ", ".join(self.goal["attributes"])
        self.searches, self.page = self.searches + 1, 1
        if self.searches > 1:  # the index knows option values, too; titles that a page shows do not
            return "I search again with the options.", f"search[{kind} {qualities} {' '.join(self.options)}]"
        thought = self.because("plan", f"My plan: find {kind}, compare, buy. ") if "plan" in self.habits else ""
        if "search" in self.habits:
            return thought + self.because("search", f"I want {kind}: {qualities}."), f"search[{kind} {qualities}]"
        return thought + f"I want {kind}.", f"search[{kind}]"

    def _results(self, observation, clickables):
        found = results(observation, clickables)
        fresh = [r for r in found if r.asin not in self.rejected] or found
        if not fresh:
            return "Nothing is here.", "click[back to search]"
        if "first" in self.habits:
            return self._open(fresh[0], self.because("first", "I open the top result."))
        if "dear" in self.habits:
            best = max(fresh, key=lambda result: result.price)
            return self._open(best, self.because("dear", "I take the dearest."))
        fits, limit = fresh, self.goal["price_upper"]
        if "match" in self.habits:
            fits = [result for result in fits if self._fit(result) == 1]
        if "price" in self.habits:
            fits = [result for result in fits if result.price <= limit]
        if fits:
            thoughts = [self.because("match", "I compare titles.")] if "match" in self.habits else []
            if "price" in self.habits:
                thoughts.append(self.because("price", f"I need a price lower than {limit:.2f}."))
            return self._open(fits[0], " ".join(thoughts) or "I try this one.")
        thought = self.because("match" if "match" in self.habits else "price", "None here fits.")
        if self.page < PAGES and self._time():
            self.page += 1
            return thought, "click[next >]"
        if self.searches == 1 and self._time():
            return thought, "click[back to search]"
        return self._open(max(fresh, key=self._fit), "None fits, so I take this one.")

    def _item(self, clickables):
        missing = [value for value in self.options if value not in clickables]
        if missing and "match" in self.habits and self._time():
            self.rejected.add(self.opened.asin)
            lack = self.said.get(missing[0], missing[0])
            return self.because("match", f"It lacks {lack}, so I go back."), "click[< prev]"
        if "read" in self.habits and not self.read and self._time():
            self.read = True
            return self.because("read", "I look at the features."), "click[features]"
        wanted = self.options if "options" in self.habits else self.options[:1]
        for value in [] if self.habits & {"skip", "first"} else wanted:
            if value in clickables and value not in self.chosen:
                self.chosen.append(value)
                return self.because("options", f"The task names {self.said.get(value, value)}."), f"click[{value}]"
        self.left_open = [value for value in self.options if value in clickables and value not in self.chosen]
        rash = [key for key in ("skip", "first") if key in self.habits]
        return self.because(rash[0], "I buy it now.") if rash else "I buy it now.", "click[buy now]"

    def _fit(self, result):
        """Share of the right title's words, bar the brand, which no task tells: so lookalikes fit, too."""
        words = self.goal["name"].lower().split()[1:]
        return sum(word in result.title.lower().split() for word in words) / max(1, len(words))

    def _open(self, result, thought):
        self.opened, self.chosen = result, []
        # The line as it stands on the page, bar the brand: a model that reads it again finds the id at its end.
        line = f"{' '.join(result.title.split()[1:][-8:])} {result.tag}".strip()
        return f"{thought} So {line} [{result.asin}].", f"click[{result.asin}]"

    def _time(self):
        """Are there moves left for a detour (2), one more product (1), its options and buying (1)?"""
        return self.moves + 4 + len(self.options) <= STEPS

    def blame(self):
        if self.left_open:
            return "options"
        if self.opened and self.opened.price > self.goal["price_upper"]:
            return "price"
        if self.opened and self._fit(self.opened) < 1:
            return "match"
        return "search"


def results(observation, clickables):
    """The products of a results page in page order. Titles and prices may be missing; asins are clickable."""
    found = []
    for part in observation.split("[SEP]"):
        part = part.strip().strip("'")  # prompts quote the parts, the shop does not
        if ASIN.fullmatch(part) and part.lower() in clickables:
            found.append(Result(part.lower(), "", 0.0, ""))
        elif found and re.fullmatch(r"\$[\d.]+( to \$[\d.]+)?", part):
            found[-1] = found[-1]._replace(price=float(part.split(" to ")[0][1:]), tag=part)
        elif found:
            found[-1] = found[-1]._replace(title=part)
    return found
