"""A made-up WebShop catalogue from a seed.

The real WebShop needs a download of Amazon pages. `make(directory, products, seed)` writes the same three files with
nothing real in them: seven families of products, four kinds in each. Every kind comes in trios of lookalikes. They
share the kind and two qualities in the title, but each costs more than the one before, an option may be sold out, and a
third quality is named on the product page alone. So the first hit is often wrong, and how one shops decides the score:
see shopper.py.
"""

import json
import random
import string
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lib.files import write_atomic

# ---------------------------------------------------------------------------------------------------------------------
# How hard the shop is
LOOKALIKES = 3  # products that share kind and title qualities, each more expensive than the one before
DEARER = 50  # dollars from one to the next: a task's limit lies at most 40 above the price of its product
GROUPS = (0.10, 0.45, 0.35, 0.10)  # how often lookalikes have 0, 1, 2, 3 option groups; more groups, more to forget
VALUES = (2, 4)  # values per option group, the same for lookalikes ...
SOLD_OUT = 0.4  # ... but this share of groups of three or more lacks one of them
HIDDEN = 0.7  # share of tasks that also want a quality which no title shows
RANGES, UNPRICED = 0.06, 0.03  # share of products with a price range, and with none (the shop then asks $100)
HUMAN = 0.85  # share of products with instructions in the human style, too

# ---------------------------------------------------------------------------------------------------------------------
# What the shop sells


@dataclass(frozen=True)
class Family:
    category: str  # WebShop's own coarse category
    path: str  # start of product_category
    kinds: list[str]
    adjectives: list[str]  # qualities that stand before the noun ...
    features: list[str]  # ... and those that stand after it
    options: dict[str, list[str]]  # no value in two groups, none with "tan" in it: shop.py takes it for a colour
    prices: tuple[int, int]


def _list(text):
    return text.split(", ")


COLORS = _list("black, white, navy blue, ruby red, ash gray, army green, rose pink, dark brown")
ASSORTMENT = {
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
    if products > len(HALVES) ** 2:
        raise ValueError(f"{products} products: there are ids for {len(HALVES) ** 2}")
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
    rng.shuffle(items)  # families alternate in the order of making
    files = {"items_shuffle_1000.json": items, "items_ins_v2_1000.json": instructions, "items_human_ins.json": human}
    for name, content in files.items():
        data = json.dumps(content, ensure_ascii=False, indent=1).encode()
        path = directory / name
        if not (path.exists() and path.read_bytes() == data):
            write_atomic(path, data)  # a reader, or a second maker, never sees half a file
    return directory


def _product(i, looks, rng):
    """The i-th product: family, kind, trio and place in the trio come from i, so all are equally many."""
    names = list(ASSORTMENT)
    family = ASSORTMENT[names[i % len(names)]]
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
