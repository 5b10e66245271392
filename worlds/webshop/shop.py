"""WebShop (Yao et al. 2022, arXiv 2207.01206) in plain Python: the shop, its search engine, its reward.

An agent reads an instruction, searches a catalogue, opens products, picks options and buys one; the score in
[0, 1] says how well the purchase fits. The original needs Java (Lucene), Flask, bs4 and spaCy, 1.5 GB and ten
seconds a worker. This file answers the same actions with the same texts, clickables and scores, from the same data
files, step for step: tests/worlds/test_shop.py replays what the original said. An episode (made up):

    >>> shop = WebShop("data/webshop"); shop.reset(17)
    'WebShop [SEP] Instruction: [SEP] Find me easy carry power cords with color: navy, and price lower than
     120.00 dollars [SEP] Search'
    >>> shop.step("search[navy power cord]")[0]
    'Instruction: [SEP] Find me ... [SEP] Back to Search [SEP] Page 1 (Total results: 12) [SEP] Next > [SEP]
     B04HFE7M23 [SEP] Minkissy Portable Power Cord [SEP] $100.0 [SEP] B0EJFGFQ13 [SEP] ...'
    >>> shop.step("click[b04hfe7m23]"); shop.step("click[navy]")     # the item page; options change no text
    >>> shop.step("click[buy now]")[1:]
    (1.0, True)

Known differences, all on purpose: `<r>` draws from a stream of its own episode; `<a>`, a bare `<c>` and malformed
data crash the original but not us; nouns come from nouns.json (or from plain words) instead of spaCy.
"""

import copy
import itertools
import json
import math
import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path

import numpy as np

PER_PAGE, MAX_HITS = 10, 50         # products on a results page, hits of a search
ACTION = re.compile(r"(.+)\[(.+)\]")      # greedy, on one line, anything may follow: as the original parses
NO_LIMIT = 1000000                  # price_upper of a goal whose instruction names no price
SUB_PAGES = ("description", "features", "reviews", "attributes")
BUTTONS = {"search", "back to search", "< prev", "buy now", *SUB_PAGES}     # win over an option of the same name
SOURCES = {                         # the small and the full release name their files differently
    "products": ("items_shuffle_1000.json", "items_shuffle.json"),
    "attributes": ("items_ins_v2_1000.json", "items_ins_v2.json"),
    "human": ("items_human_ins.json",),
}

# The order matters: the FIRST colour found in an option replaces the whole option ("rectangular" becomes "tan").
COLORS = """alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy
    camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry
    cream crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey
    heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint
    mocha multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose
    royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger
    turquoise violet walnut wheat white wine yellow""".split()

LUCENE_STOP_WORDS = frozenset("""a an and are as at be but by for if in into is it no not of on or such that the
    their then there these they this to was will with""".split())
# Without nouns.json we take words for nouns; those below are the frequent title words that spaCy never does.
NOT_NOUNS = LUCENE_STOP_WORDS | set("all any from her his its made more one our out over up you your".split())


# ---------------------------------------------------------------------------------------------------------------
# Data: three JSON files in, clean products and goals out

@dataclass(slots=True)
class Product:
    """One product of the catalogue, cleaned as the original's engine.py does."""
    asin: str
    name: str
    category: str
    query: str
    product_category: str           # "Clothing › Men › Shoes"
    description: str
    bullets: list[str]
    prices: list[float]             # dollars: one price, or the two ends of a range
    price_tag: str                  # the price as the pages show it
    options: dict[str, list[str]]   # option name -> values, all lower-case
    attributes: list[str]


def _need(condition, file, place, what):
    if not condition:
        raise ValueError(f"{file}: {place} {what}; repair the file or copy it from the WebShop release again")


def _read(folder, names, kind):
    """Parse the first of `names` in `folder` -> (path, list or dict); any fault is one line naming the file."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such directory; data_dir must name the folder holding {names[0]}")
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: no {' or '.join(names)} here; copy it from the WebShop release")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        _need(path.stat().st_size, path, "the file", "is empty")
        _need(False, path, f"line {error.lineno}", "is not valid JSON (truncated?)")
    except UnicodeDecodeError as error:
        _need(False, path, f"byte {error.start}", "is not UTF-8 text")
    except ValueError:              # Python reads no number of more than 4,300 digits
        _need(False, path, "the file", "holds a number that is too long")
    except RecursionError:          # [[[[...
        _need(False, path, "the file", "is nested too deeply")
    _need(isinstance(data, kind), path, "the top level", f"is {type(data).__name__}, not {kind.__name__}")
    return path, data


def _texts(value, file, place):
    """A list of strings, or fail; None counts as empty."""
    ok = value is None or isinstance(value, list) and all(isinstance(v, str) for v in value)
    _need(ok, file, place, "is not a list of strings")
    return value or []


def _load_products(folder):
    """The catalogue in file order, {asin: Product}, and the parsed attributes file with its path."""
    path, rows = _read(folder, SOURCES["products"], list)
    attributes_path, extras = _read(folder, SOURCES["attributes"], dict)
    products = {}
    for number, row in enumerate(rows):
        place = f"product {number}"
        _need(isinstance(row, dict), path, place, "is not an object")
        for key in ("asin", "name"):
            _need(isinstance(row.get(key), str), path, place, f"has no {key}")
        asin = row["asin"]
        place = f"product {number} ({asin})"
        if asin == "nan" or len(asin) > 10 or asin in products:
            continue
        for key in ("category", "query", "product_category", "full_description", "pricing"):
            _need(isinstance(row.get(key) or "", str), path, place, f"has a {key} that is not text")
        bullets = row.get("small_description")
        bullets = [bullets] if isinstance(bullets, str) else _texts(bullets, path, f"{place}: small_description")

        # Anything but digits and dots goes; a third price and further ones are ignored.
        prices = [re.sub(r"[^\d.]", "", piece) for piece in (row.get("pricing") or "").split("$")[1:]]
        try:
            prices = [float(piece) for piece in prices if piece][:2] or [100.0]
        except ValueError:
            _need(False, path, place, f"has an unreadable price {row['pricing']!r}")

        groups = row.get("customization_options") or {}
        _need(isinstance(groups, dict), path, place, "has customization_options that are not an object")
        options = {}
        for name, contents in groups.items():
            if contents is None:
                continue
            ok = isinstance(contents, list) and all(isinstance(content, dict) for content in contents)
            _need(ok, path, place, f"has an option {name!r} that is not a list of objects")
            values = _texts([content.get("value") for content in contents], path, f"{place}: option {name!r}")
            options[name.lower()] = [value.strip().replace("/", " | ").lower() for value in values]

        extra = extras.get(asin, {})
        _need(isinstance(extra, dict), attributes_path, asin, "is not an object")
        attributes = extra.get("attributes", ["DUMMY_ATTR"])
        products[asin] = Product(
            asin, row["name"], row.get("category") or "", (row.get("query") or "").lower().strip(),
            row.get("product_category") or "", row.get("full_description") or "", bullets, prices,
            " to ".join(f"${price}" for price in prices), options,
            _texts(attributes, attributes_path, f"{asin}: attributes"))
    _need(products, path, "the list", "holds no usable product")
    return products, attributes_path, extras


def _goals(products, prices, source, entries, human, rng):
    """Goals in catalogue order, drawing from `rng` exactly what the original's goal.py draws from `random`."""
    goals = []
    for asin, product in products.items():
        wishes = entries.get(asin, [] if human else {})
        _need(isinstance(wishes, list if human else dict), source, asin, "has the wrong type")
        for wish in wishes if human else [wishes]:
            _need(isinstance(wish, dict), source, asin, "has an instruction that is not an object")
            text = wish.get("instruction")
            attributes = _texts(wish.get("instruction_attributes"), source, f"{asin}: instruction_attributes")
            if not attributes or text is None and not human:
                continue
            _need(isinstance(text, str), source, asin, "has an instruction that is not text")
            # One draw per instruction, shared by all option combinations of a synthetic one.
            limits = [10.0 * n for n in range(1, 100) if 10.0 * n > prices[asin]][:4]
            limit = max(rng.sample(limits, 2)) if len(limits) > 1 else NO_LIMIT
            suffix = f", and price lower than {limit:.2f} dollars" if len(limits) > 1 else ""
            if human:
                options = _texts(wish.get("instruction_options"), source, f"{asin}: instruction_options")
                variants = [(text.strip("."), options)]
            else:
                names = sorted(product.options)
                chosen = [dict(zip(names, values)) for values in itertools.product(*map(product.options.get, names))]
                spoken = [", and ".join(f"{name}: {value}" for name, value in pick.items()) for pick in chosen]
                variants = [(text + (f" with {s}" if s else ""), pick) for s, pick in zip(spoken, chosen)]
            for text, options in variants:
                goals.append({
                    "asin": asin, "category": product.category, "query": product.query, "name": product.name,
                    "product_category": product.product_category, "instruction_text": text + suffix,
                    "attributes": attributes, "price_upper": limit, "goal_options": options, "weight": 1})
    if not human:                   # rare attributes weigh more when the original samples training goals
        count = Counter(attribute for goal in goals for attribute in goal["attributes"])
        for goal in goals:
            goal["weight"] = sum(1.0 / count[a] for a in goal["attributes"]) / len(goal["attributes"])
    return goals


# ---------------------------------------------------------------------------------------------------------------
# Reward (the original's goal.py and normalize.py, and thefuzz 0.19)

def token_set_ratio(a, b):
    """thefuzz 0.19's fuzz.token_set_ratio (pure Python, difflib) -> 0..100; non-strings are compared as str(x)."""
    words = []
    for text in (a, b):
        ascii_ish = re.sub(r"[\x80-\xff]", "", str(text))       # thefuzz drops Latin-1 and keeps, say, Chinese
        words.append(set(re.sub(r"\W", " ", ascii_ish).lower().split()))
    if not words[0] or not words[1]:
        return 0
    shared = " ".join(sorted(words[0] & words[1]))
    one = f"{shared} {' '.join(sorted(words[0] - words[1]))}".strip()
    two = f"{shared} {' '.join(sorted(words[1] - words[0]))}".strip()
    pairs = [(shared, one), (shared, two), (one, two)]
    return max(100 if x == y else round(100 * SequenceMatcher(None, x, y).ratio()) if x and y else 0
               for x, y in pairs)


@lru_cache(maxsize=100_000)
def _same(a, b):
    return token_set_ratio(a, b) > 85


def _color(option):
    # On the (name, value) tuples of synthetic goals `in` means equality with an element, not a substring: that is why
    # an option like "rectangular" is "tan" once bought, but never in the goal. The original does the same, so some
    # goals cannot be won.
    return next((color for color in COLORS if color in option), option)


def _wishes(goal):
    options = goal["goal_options"]
    return [_color(wish) for wish in (options.items() if isinstance(options, dict) else options)]


def title_nouns(title, nouns):
    """Lower-case nouns of a title: the given ones if any (nouns.json), else all its words minus NOT_NOUNS."""
    if title in nouns:
        return nouns[title]
    return [word for word in re.findall(r"[^\W\d_]\w+", title.lower()) if word not in NOT_NOUNS]


def reward_parts(purchased_product, goal, price, options, nouns):
    """The pieces of `reward`: r_type in {0, .1, .5, 1}, the matches and the number of things asked for."""
    wanted = title_nouns(goal["name"], nouns)
    shared = set(title_nouns(purchased_product.name, nouns)) & set(wanted)
    title_score = len(shared) / len(wanted) if wanted else 0.2      # `wanted` repeats words, so 1 may be out of reach
    categories = [{part.strip() for part in text.split("›")}
                  for text in (purchased_product.product_category, goal["product_category"])]
    same_kind = purchased_product.query == goal["query"] or len(categories[0] & categories[1]) >= 2
    r_type = 1.0 if same_kind or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1 if title_score > 0 else 0.0

    texts = (purchased_product.name, " ".join(purchased_product.bullets), purchased_product.description)
    attribute = sum(any(_same(has, wish) for has in purchased_product.attributes)
                    or any(wish in text.lower() for text in texts) for wish in goal["attributes"])
    bought = [_color(value) for value in options.values()]
    wishes = _wishes(goal)
    option = sum(any(_same(value, wish) for value in bought) for wish in wishes)
    return {"r_type": r_type, "attribute": attribute, "option": option, "price": price <= goal["price_upper"],
            "asked": len(goal["attributes"]) + len(wishes) + 1}


def reward(purchased_product, goal, price, options, nouns):
    """Score of a purchase, 0..1 (arXiv 2207.01206, equation 1).

    purchased_product: Product; goal: one of WebShop.goals; price: dollars (WebShop.prices); options: {name: value}
    chosen on the item page; nouns: {title: [noun]}, may be empty.
    """
    parts = reward_parts(purchased_product, goal, price, options, nouns)
    return (parts["attribute"] + parts["option"] + parts["price"]) / parts["asked"] * parts["r_type"]


# ---------------------------------------------------------------------------------------------------------------
# Text analysis: Lucene 8's EnglishAnalyzer as Anserini sets it up

def _points(text):
    """'3041-3096 1F200' -> the set of those characters."""
    ends = [(part + "-" + part).split("-")[:2] for part in text.split()]
    return {chr(c) for low, high in ends for c in range(int(low, 16), int(high, 16) + 1)}


# Word-break classes that unicodedata does not know, one letter each; read off Lucene 8.11 (Unicode 9) by asking its
# tokenizer about every character. E: emoji (and the ranges reserved for them), B: emoji that take a skin tone.
_CLASSES = {
    "'": "'", '"': '"', ".": _points("2E 2018-2019 2024 FE52 FF07 FF0E"),
    ":": _points("3A B7 2D7 387 5F4 2027 FE13 FE55 FF1A"),
    ",": _points("2C 3B 37E 589 60C-60D 66C 7F8 2044 FE10 FE14 FE50 FE54 FF0C FF1B"),
    "_": _points("5F 202F 203F-2040 2054 FE33-FE34 FE4D-FE4F FF3F"),
    "#": "#*", "k": "\u20e3", "T": "\ufe0e", "P": "\ufe0f", "Z": "\u200d", "X": "\u1cf2\u1cf3\uff9e\uff9f",
    "M": _points("1F3FB-1F3FF"), "R": _points("1F1E6-1F1FF"), "N": "\u066b", "o": "\u200b\u3006",
    "A": _points("5F3 24B6-24E9 1F130-1F149 1F150-1F169 1F170-1F189"),
    "K": _points("3031-3035 309B-309C 30A0-30FA 30FC-30FF 31F0-31FF 32D0-32FE 3300-3357 FF66-FF9D 1B000"),
    "U": _points("3041-3096 309D-309F 1B001 1F200"),
    "I": _points("2E80-2E99 2E9B-2EF3 2F00-2FD5 3007 3021-3029 3038-303A 3400-4DB5 4E00-9FD5 F900-FA6D FA70-FAD9 "
                 "20000-2A6D6 2A700-2B734 2B740-2B81D 2B820-2CEA1 2F800-2FA1D"),
    "B": _points("261D 26F9 270A-270D 1F385 1F3C2-1F3C4 1F3C7 1F3CA-1F3CC 1F442-1F443 1F446-1F450 1F466-1F469 1F46E "
                 "1F470-1F478 1F47C 1F481-1F483 1F485-1F487 1F4AA 1F574-1F575 1F57A 1F590 1F595-1F596 1F645-1F647 "
                 "1F64B-1F64F 1F6A3 1F6B4-1F6B6 1F6C0 1F6CC 1F918-1F91C 1F91E-1F91F 1F926 1F930-1F939 1F93D-1F93E "
                 "1F9B5-1F9B6 1F9B8-1F9B9 1F9D1-1F9DD"),
    "E": _points("A9 AE 203C 2049 2122 2194-2199 21A9-21AA 231A-231B 2328 2388 23CF 23E9-23F3 23F8-23FA 25AA-25AB 25B6 "
                 "25C0 25FB-25FE 2600-2605 2607-2612 2614-2685 2690-2705 2708-2712 2714 2716 271D 2721 2728 2733-2734 "
                 "2744 2747 274C 274E 2753-2755 2757 2763-2767 2795-2797 27A1 27B0 27BF 2934-2935 2B05-2B07 2B1B-2B1C "
                 "2B50 2B55 3030 303D 3297 3299 1F000-1F0FF 1F10D-1F10F 1F12F 1F16C-1F16F 1F18E 1F191-1F19A "
                 "1F1AD-1F1E5 1F201-1F20F 1F21A 1F22F 1F232-1F23A 1F23C-1F23F 1F249-1F53D 1F546-1F64F 1F680-1F6FF "
                 "1F774-1F77F 1F7D5-1F7FF 1F80C-1F80F 1F848-1F84F 1F85A-1F85F 1F888-1F88F 1F8AE-1F8FF 1F90C-1F93A "
                 "1F93C-1F945 1F947-1FFFD"),
}
_SPECIAL = {char: name for name, chars in reversed(_CLASSES.items()) for char in chars}
_SOUTH_EAST_ASIAN = _points("E00-EFF 1000-109F 1780-17FF 1950-19DF 1A20-1AAF A9E0-A9FF AA60-AADF 11700-1173F")


class _WordBreaks(dict):
    """str.translate table from characters to class letters, filled as characters turn up."""

    def __missing__(self, code):
        char = chr(code)
        kind, asian = unicodedata.category(char), char in _SOUTH_EAST_ASIAN
        if char in _SPECIAL:
            name = _SPECIAL[char]
        elif kind[0] == "L" or kind == "Nl":
            name = "C" if asian else "H" if "\u0590" <= char <= "\u05ff" else "A"
        elif kind[0] == "M" or kind == "Cf":
            name = "S" if asian else "X"
        else:
            name = "N" if kind == "Nd" else "o"
        self[code] = name
        return name


def _token_pattern():
    """UAX#29 words plus Lucene's emoji, as one regex over class letters."""
    x, v = "[XTPSZk]*", "[XSZk]*"                               # marks that stick to what stands before them
    letter = f"(?:A{x}|H{x}(?:\"{x}(?=H)|'{x})?)"
    letters = f"{letter}(?:(?:(?<!')[.':]{x})?{letter})*"       # u.s.a  don't  u:a
    digits = f"N{x}(?:(?:[.',]{x})?N{x})*"                      # 3.5  1,000
    run, under = f"(?:(?:{letters}|{digits})+|(?:K{x})+)", f"(?:_{x}){{0,255}}"
    word = f"{under}{run}(?:(?:_{x}){{1,255}}{run})*{under}"
    face = f"(?:B{v}M{v}|[EB]{v}P?|M{v})"
    emoji = f"(?:Z+(?=[EB]))?{face}(?:(?:(?<=Z)|Z+){face})*"    # families are joined by ZWJ
    return re.compile("|".join([word, emoji, f"#[XSZ]*P?k{v}", f"R{x}R{x}", "[CS][CSXTPZk]*", f"[IU]{x}"]))


_WORD_BREAKS, _TOKEN = _WordBreaks(), _token_pattern()


def analyze(text):
    """Text -> index terms: UAX#29 words, possessive 's off, lower-case, no stop words, Porter stems."""
    if text != text.lower():        # letter by letter: str.lower() knows about final sigmas, Java's does not
        text = "".join(char.lower()[0] for char in text)
    classes, terms, position = text.translate(_WORD_BREAKS), [], 0
    while match := _TOKEN.search(classes, position):
        start, position = match.span()
        if position - start > 255:  # Lucene's scanner sees 255 characters at a time
            cut = _TOKEN.match(classes, start, start + 255)
            position = cut.end() if cut else start + 255
            if not cut:             # 255 underscores or marks in a row are no word yet
                continue
        word = text[start:position]
        if word[-1] == "s" and word[-2:-1] in ("'", "’", "＇"):
            word = word[:-2]
        if word not in LUCENE_STOP_WORDS:
            terms.append(_stem(word))
    return terms


# Porter (1980) with the two changes of the author's own program, bli and logi.
_STEP2 = [pair.split(":") for pair in """ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent
    eli:e ousli:ous ization:ize ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous aliti:al iviti:ive
    biliti:ble logi:log""".split()]
_STEP3 = [pair.split(":") for pair in "icate:ic ative: alize:al iciti:ic ical:ic ful: ness:".split()]
_STEP4 = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize".split()


def _form(word):
    """'happy' -> 'cvccv': consonants and vowels."""
    form = ""
    for char in word:
        form += "v" if char in "aeiou" or char == "y" and form[-1:] == "c" else "c"
    return form


def _measure(word):
    return _form(word).count("vc")


def _short(word):                   # *o in Porter's paper: ends consonant-vowel-consonant, the last not w, x or y
    return _form(word)[-3:] == "cvc" and word[-1] not in "wxy"


def _doubled(word):
    return word[-2:-1] == word[-1] and _form(word)[-1] == "c"


@lru_cache(maxsize=100_000)
def _stem(word):
    if len(word) < 3:
        return word
    if word.endswith(("sses", "ies")):                                                  # step 1a
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    cut = next((len(end) for end in ("eed", "ed", "ing") if word.endswith(end)), 0)     # step 1b
    if word.endswith("eed"):
        word = word[:-1] if _measure(word[:-3]) else word
    elif cut and "v" in _form(word[:-cut]):
        word = word[:-cut]
        if word.endswith(("at", "bl", "iz")):
            word += "e"
        elif _doubled(word):
            word = word if word[-1] in "lsz" else word[:-1]
        elif _measure(word) == 1 and _short(word):
            word += "e"
    if word.endswith("y") and "v" in _form(word[:-1]):                                  # step 1c
        word = word[:-1] + "i"
    for rules in (_STEP2, _STEP3):
        end, new = next((rule for rule in rules if word.endswith(rule[0])), ("", ""))
        if end and _measure(word[:-len(end)]) > 0:
            word = word[:-len(end)] + new
    end = next((end for end in _STEP4 if word.endswith(end) and (end != "ion" or word[-4:-3] in ("s", "t"))), "")
    if end and _measure(word[:-len(end)]) > 1:
        word = word[:-len(end)]
    if word.endswith("e"):                                                              # step 5
        measure = _measure(word)
        if measure > 1 or measure == 1 and not _short(word[:-1]):
            word = word[:-1]
    if word.endswith("ll") and _measure(word) > 1:
        word = word[:-1]
    return word


# ---------------------------------------------------------------------------------------------------------------
# Search: Lucene's BM25 to the last float32 bit

class BM25:
    """Index of {id: text} or [(id, text)]. k1 = 0.9 and b = 0.4 are pyserini's defaults, which WebShop uses."""

    def __init__(self, docs, k1=0.9, b=0.4):
        docs = sorted(dict(docs).items())       # position = rank of the id: a stable sort then breaks ties by id
        self.ids = [id for id, _ in docs]
        postings, lengths = {}, np.zeros(len(docs), np.int64)
        for position, (_, text) in enumerate(docs):
            terms = analyze(text)
            lengths[position] = len(terms)
            for term, count in Counter(terms).items():
                postings.setdefault(term, []).append((position, count))
        self.count = max(1, np.count_nonzero(lengths))          # Lucene does not count documents without terms
        # Lucene keeps a length in one byte: exact below 40, else 24 plus a number cut to its top four bits.
        shift = [max(0, (int(n) - 24).bit_length() - 4) if n >= 40 else 0 for n in lengths]
        stored = [24 + ((int(n) - 24 >> s) << s) if n >= 40 else int(n) for n, s in zip(lengths, shift)]
        f = np.float32
        average = f(max(1, lengths.sum()) / self.count)
        inverse = f(1) / (f(k1) * ((f(1) - f(b)) + f(b) * np.array(stored, f) / average))
        self.postings = {}          # term -> idf, positions (n,), 1 + tf / norm (n,): all a query needs
        for term, pairs in postings.items():
            positions, counts = np.array(pairs).T
            idf = f(math.log(1 + (self.count - len(pairs) + 0.5) / (len(pairs) + 0.5)))
            self.postings[term] = idf, positions, f(1) + counts.astype(f) * inverse[positions]

    def search(self, query, k=MAX_HITS):
        """The k best documents that share a term with the query: [(id, score)], best first, ties by id."""
        scores = np.zeros(len(self.ids))        # Lucene adds the terms' float32 scores in double precision
        for term, count in Counter(analyze(query)).items():
            if term in self.postings:
                idf, positions, saturation = self.postings[term]
                weight = np.float32(count) * idf
                scores[positions] += weight - weight / saturation
        scores = scores.astype(np.float32)
        best = np.argsort(-scores, kind="stable")[:k]
        hits, ties = [], 0
        for position in best[scores[best] > 0]:
            # What is reported is rounded, and close scores are set apart by 1e-6 each (Anserini's tie adjuster).
            score = np.float32(math.floor(float(scores[position]) * 1e4 + 0.5) / 1e4)
            ties = ties + 1 if hits and not hits[-1][1] - score > np.float32(1e-4) else 0
            hits.append((self.ids[position], score - np.float32(1e-6) * np.float32(ties)))
        return [(id, float(score)) for id, score in hits]


# ---------------------------------------------------------------------------------------------------------------
# The shop

def _text(*parts):
    """Text nodes -> observation. bs4 has no node for '' and folds blanks holding a newline, which are then dropped."""
    return " [SEP] ".join(part.strip() for part in parts if part.strip(" \n\t\f\r") or part and "\n" not in part)


class WebShop:
    """One shopping session on a catalogue; `clone()` opens another on the same catalogue, index and goals.

    data_dir: folder with the WebShop files (SOURCES above, both name variants) and, if there, nouns.json.
    human_goals: crowd-written instructions instead of the synthetic ones. seed: prices inside ranges and price
    limits; shuffle_seed: order of the goals (None: seed; the original uses 233). show_attrs: the Attributes page.
    Raises FileNotFoundError or ValueError, one line naming file, place and remedy, if the data is not usable.
    """

    def __init__(self, data_dir, human_goals=False, seed=0, shuffle_seed=None, show_attrs=False):
        folder, self.seed, self.show_attrs = Path(data_dir), seed, show_attrs
        self.products, source, entries = _load_products(folder)
        if human_goals:
            source, entries = _read(folder, SOURCES["human"], dict)
        # Own generators give the same numbers as the original's seeding of the global one, and leave that alone.
        rng = random.Random(seed)
        self.prices = {asin: rng.uniform(*product.prices) if len(product.prices) > 1 else product.prices[0]
                       for asin, product in self.products.items()}
        self.goals = _goals(self.products, self.prices, source, entries, human_goals, rng)
        if not self.goals:
            kind, other = ("human", "False") if human_goals else ("synthetic", "True")
            raise ValueError(f"{source}: no {kind} instruction for any product; try human_goals={other} or other data")
        random.Random(seed if shuffle_seed is None else shuffle_seed).shuffle(self.goals)
        self.nouns = {}
        if (folder / "nouns.json").is_file():
            path, nouns = _read(folder, ("nouns.json",), dict)
            self.nouns = {title: _texts(words, path, f"title {title!r}") for title, words in nouns.items()}
        self.engine = BM25({asin: self._indexed_text(product) for asin, product in self.products.items()})
        self._hits = {}             # query -> products found, shared by all clones
        self.goal = None            # None until reset

    @staticmethod
    def _indexed_text(product):
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
        # Only the first bullet point is indexed; the original does so, too.
        return " ".join([product.name, product.description, *product.bullets[:1], options]).lower()

    def clone(self):
        """A new session, to be reset before use; catalogue, index, goals and search cache are shared."""
        other = copy.copy(self)
        other.goal = None
        return other

    def reset(self, goal_index):
        """Start the episode of `self.goals[goal_index]` -> the first observation. IndexError if there is none."""
        if not 0 <= goal_index < len(self.goals):
            raise IndexError(f"goal_index {goal_index}: this shop has the goals 0 to {len(self.goals) - 1}")
        self.goal = self.goals[goal_index]
        self._rng = random.Random(f"{self.seed} {goal_index}")      # for search[<r>] alone
        self._home()
        return self._obs

    def available_actions(self):
        """{"has_search_bar": bool, "clickables": [str]}; search[...] works on every page, whatever this says."""
        self._check_started()
        return {"has_search_bar": self._page == "home", "clickables": list(self._clickables)}

    def step(self, action):
        """One action, 'search[...]' or 'click[...]' -> (observation, reward, done).

        The reward is the raw score of `reward`, 0 until something is bought. What cannot be done changes nothing.
        done is True for the purchase alone; as in the original, the done page then stays, without reward, and a
        search would even leave it: stopping is up to the caller.
        """
        self._check_started()
        match = re.match(ACTION, action)
        name, argument = (match[1], match[2].lower()) if match else (action, None)
        if name == "search" and argument:
            self._search(argument.split(" "))
        elif name == "click" and argument in self._clickables and argument != "search":
            if argument == "buy now":
                return self._buy()
            self._click(argument)
        return self._obs, 0.0, False

    def winnable(self, goal_index):
        """Whether some choice of options on the goal's own product scores 1.0: see `best_reward`."""
        return self.best_reward(goal_index) == 1.0

    def best_reward(self, goal_index):
        """The highest score that buying the goal's own product can reach, over all choices of clickable options."""
        goal = self.goals[goal_index]
        product, wishes = self.products[goal["asin"]], _wishes(goal)
        groups = {}
        for value, name in self._option_clicks(product).items():
            match = re.match(ACTION, f"click[{value}]")     # a value with brackets or a newline cannot be clicked
            if value not in BUTTONS and match and match.groups() == ("click", value):
                groups.setdefault(name, []).append(value)
        # Options count one by one and a group gives at most one: keep one way to each set of wishes fulfilled.
        ways = {frozenset(): {}}
        for name, values in groups.items():
            before = list(ways.items())
            for value in values:
                met = frozenset(i for i, wish in enumerate(wishes) if _same(_color(value), wish))
                for reached, options in before:
                    ways.setdefault(reached | met, {**options, name: value})
        price = self.prices[product.asin]
        return max(reward(product, goal, price, options, self.nouns) for options in ways.values())

    # ---- pages: each method below sets the page, its text and its clickables ----

    def _check_started(self):
        if self.goal is None:
            raise RuntimeError("this shop has no episode yet: call reset(goal_index) first")

    def _show(self, page, clickables, *parts):
        # Clickable text -> what it stands for: an option's group, a product's asin, None for a button.
        self._page, self._clickables = page, dict.fromkeys(clickables)
        self._obs = _text(*parts)

    def _header(self):
        return "Instruction:", self.goal["instruction_text"], "Back to Search"

    def _home(self):
        self._keywords, self._number, self._asin, self._options = None, None, None, {}
        self._show("home", ["search"], "WebShop", *self._header()[:2], "Search")

    def _search(self, keywords, number=1):
        self._keywords, self._number, self._asin, self._options = keywords, number, None, {}
        found = self._find(keywords)
        shown = found[(number - 1) * PER_PAGE:number * PER_PAGE]
        buttons = (["< Prev"] if number > 1 else []) + ["Next >"]
        lines = [text for product in shown for text in (product.asin, product.name, product.price_tag)]
        self._show("results", ["back to search", *map(str.lower, buttons)], *self._header(),
                   f"Page {number} (Total results: {len(found)})", *buttons, *lines)
        self._clickables.update((product.asin.lower(), product.asin) for product in shown)

    def _find(self, keywords):
        """Products for the words of a search; the first word may be one of the original's hidden commands."""
        command, rest = keywords[0], " ".join(keywords[1:]).strip()
        if command == "<r>":        # anew on every page turn, as in the original
            return self._rng.sample(list(self.products.values()), min(MAX_HITS, len(self.products)))
        if command == "<c>" and len(keywords) > 1:
            return [product for product in self.products.values() if product.category == keywords[1].strip()]
        if command == "<q>":
            return [product for product in self.products.values() if product.query == rest]
        query = " ".join(keywords)
        if query not in self._hits:
            if len(self._hits) >= 10_000:
                self._hits.clear()
            self._hits[query] = [self.products[asin] for asin, _ in self.engine.search(query)]
        return self._hits[query]

    @staticmethod
    def _option_clicks(product):
        # Equal values of two option groups share one clickable: the last group gets it.
        return {value: name for name, values in product.options.items() for value in values}

    def _item(self):
        product = self.products[self._asin]
        buttons = ["Description", "Features", "Reviews", *(["Attributes"] if self.show_attrs else []), "Buy Now"]
        options = [text for name, values in product.options.items() for text in (name, *values)]
        self._show("item", ["back to search", "< prev", *map(str.lower, buttons)], *self._header(), "< Prev", *options,
                   product.name, f"Price: {product.price_tag}", "Rating: N.A.", *buttons)
        self._clickables.update(self._option_clicks(product))

    def _click(self, argument):
        # The original looks at the button's text before it looks at options, so an option "features" opens a page.
        if argument == "back to search":
            self._home()
        elif argument == "next >" and self._page == "results":
            self._search(self._keywords, self._number + 1)
        elif argument == "< prev" and self._page == "results":
            self._search(self._keywords, self._number - 1)
        elif argument == "< prev" and self._page == "item":
            self._search(self._keywords, self._number)
        elif argument in SUB_PAGES:
            product = self.products[self._asin]
            # The template has a space before each bullet, which makes an empty bullet an empty text, not none.
            content = {"description": [product.description], "features": [" " + text for text in product.bullets],
                       "reviews": [], "attributes": product.attributes}[argument]
            self._show("sub", ["back to search", "< prev"], *self._header(), "< Prev", *content)
        else:
            if self._page == "results":
                self._asin = self._clickables[argument]
            elif self._page == "item":
                self._options[self._clickables[argument]] = argument
            self._item()            # also what "< prev" on a sub-page comes to: back, with the options kept

    def _buy(self):
        score = reward(self.products[self._asin], self.goal, self.prices[self._asin], self._options, self.nouns)
        options = json.dumps(self._options, sort_keys=True)     # as Jinja's tojson, which is safe inside HTML
        for char in "<>&'":
            options = options.replace(char, f"\\u{ord(char):04x}")
        nothing = [text for name in ("attrs", "category", "query", "product category") for text in (name, "None")]
        self._show("done", [], "Thank you for shopping with us!", "Your code:", "None",
                   "(Paste it in your MTurk interface.)", "Purchased", "asin", self._asin, "options", options,
                   *nothing, "Target", "asin", "options", "attrs", "price upper", "instuction text", "category",
                   "product category", "query", "Goal", "None", "Reward", "Your score (min 0.0, max 1.0)", str(score),
                   "Reward Details", "None")
        return self._obs, score, True
