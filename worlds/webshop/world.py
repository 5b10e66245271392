"""
WebShop as tasks with families, for envs.py; the exact shop is in shop.py.

This file decides what the policy reads (pages with [brackets] around clickable texts), which goals are for training and
which are held out, and which family of the skill bank a goal belongs to.
"""

import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from zlib import crc32

from lib.files import expanded
from worlds import digest
from worlds.players import BASE
from worlds.webshop import catalogue
from worlds.webshop.shop import ACTION, WebShop
from worlds.webshop.shopper import REAL_WAYS, STEPS, WAYS, RealShopper, Shopper, shown

# Keyword families as in SkillRL's WebShop bank; these lists are our own. The first family with a word of the task text
# gets it; the order puts the sharpest words first ("watch band" is an accessory although a watch is electronic, too).
KEYWORDS = {
    "footwear": (
        "shoe shoes sneaker sneakers boot boots sandal sandals slipper slippers loafer loafers heels pumps flats "
        "clogs mules oxfords footwear slides flip-flops moccasins"
    ),
    "apparel": (
        "shirt shirts t-shirt t-shirts tee tees top tops blouse blouses dress dresses pant pants jeans shorts "
        "skirt skirts leggings sweater sweaters hoodie hoodies sweatshirt sweatshirts jacket jackets coat coats "
        "suit suits vest vests cardigan cardigans pajama pajamas underwear bra bras panties sock socks lingerie "
        "swimsuit swimsuits bikini bikinis jumpsuit jumpsuits romper rompers robe robes sleepwear tights briefs "
        "boxers polo polos tank tanks tuxedo tuxedos overalls swimwear loungewear lounge activewear suiting blazer "
        "blazers henley henleys tunic tunics"
    ),
    "accessories": (
        "watch watches wristwatch bag bags handbag handbags backpack backpacks wallet wallets belt belts hat hats "
        "cap caps scarf scarves glove gloves sunglasses jewelry necklace necklaces bracelet bracelets earring "
        "earrings tie ties purse purses umbrella umbrellas luggage band bands"
    ),
    "electronics": (
        "phone phones smartphone smartphones laptop laptops computer computers tablet tablets headphone headphones "
        "earbud earbuds earphones headset headsets speaker speakers charger chargers cable cables cord cords "
        "adapter adapters camera cameras lens lenses tv tvs television televisions monitor monitors keyboard "
        "keyboards mouse projector projectors binoculars scopes router routers microphone microphones battery "
        "batteries usb hdmi bluetooth desktop desktops antenna antennas radio radios receiver receivers player "
        "players subwoofer soundbar tripod tripods printer printers drone drones wireless electronics telescopes "
        "minis cases"
    ),
    "beauty_health": (
        "shampoo conditioner hair skin makeup lipstick lip mascara eyelash eyelashes eyeliner foundation concealer "
        "cream creams lotion lotions serum serums moisturizer moisturizers soap toothpaste toothbrush toothbrushes "
        "floss mouthwash deodorant perfume fragrance cologne nail nails brush brushes razor razors shaving beauty "
        "face facial body bath dental oral teeth massage mirror mirrors wig wigs sunscreen cleanser scrubs "
        "cosmetic"
    ),
    "home_decor": (
        "chair chairs sofa sofas couch couches table tables desk desks bed beds mattress mattresses lamp lamps "
        "light lights lighting chandelier chandeliers curtain curtains drape drapes rug rugs pillow pillows "
        "blanket blankets shelf shelves bookcase bookcases cabinet cabinets dresser dressers ottoman ottomans "
        "stool stools bench benches candle candles clock clocks wall decor vase vases furniture headboard "
        "nightstand nightstands panels window storage pouf poufs sconces lampshade box bedding poster"
    ),
}
FAMILY_OF = {word: family for family, words in reversed(list(KEYWORDS.items())) for word in words.split()}


def family_of(instruction):
    """The family of a goal from its text alone: one of KEYWORDS, or "other".

    The kind of product stands after the attributes in synthetic goals and before them in human ones, so no rule of
    place helps and every word may decide; but not the options and the price, which follow " with <name>: ".
    """
    text = re.split(r" with [\w ]+: |, and price", instruction.lower())[0]
    found = {FAMILY_OF[word] for word in re.findall(r"[a-z][a-z-]*", text) if word in FAMILY_OF}
    return next((name for name in KEYWORDS if name in found), "other")


@lru_cache(maxsize=4)
def made_up(seed, human_goals):
    """The shop with the made-up catalogue, built once in a process: all worlds of this seed clone it."""
    with tempfile.TemporaryDirectory() as folder:
        return WebShop(catalogue.make(folder, seed=seed), human_goals=human_goals, seed=seed)


class World:
    """Real WebShop data where `data` or $WEBSHOP_DATA names a directory, else a made-up catalogue from the seed.

    Splits of the shuffled goals, the same for every run: 0-499 test, 500-1499 dev, the rest train; with
    fewer than 3,000 goals the same three shares of 6,910.
    """

    limit, kl, tail, graded, ways, corpus_chats = STEPS, 0.05, 20, True, WAYS, 300
    aliases: dict = {}
    options: dict = {
        "human_goals": (False, "people's instructions instead of synthetic ones"),
        "base": (BASE, "how often scripted shoppers have a useful habit that no skill names"),
        "reading": (0.0, "how often scripted shoppers of real data exercise themselves in reading options"),
        "families": ("", "train on these families only, commas between them; held-out goals stay as they are"),
        "even": (False, "training goals, and five more for each option value that they want, so for rare words, too"),
        "winnable_only": (False, "leave out goals whose own product cannot score 1.0"),
    }
    rules = (
        "You shop in a text web store. Each turn answer <think>one short thought</think><action>one action</action>. "
        "Actions: search[words], or click[text] for a text shown in [brackets]. Find the product that fits the task, "
        "choose the options it names, then click[buy now]. You have 15 actions. Follow your skills."
    )

    def __init__(self, split, data=None, seed=0, human_goals=False, winnable_only=False, base=BASE,
                 reading=0.0, families="", even=False):
        self.base, self.reading = base, reading
        named = "--data" if data else "$WEBSHOP_DATA"
        data = expanded(data or os.environ.get("WEBSHOP_DATA") or "")
        self.real = bool(data)
        if reading and not data:
            raise ValueError("--reading: only shoppers of real data have exercises; give --data, or leave it out")
        self.ways, self.home = (REAL_WAYS, "webshop/real") if data else (WAYS, "webshop")
        self.source = f"data in {Path(data).resolve().name}" if data else "made-up catalogue"
        try:
            # The seed is the world's, not the run's: with the run's, test goals of one run would be training goals of
            # another.
            self.shop = WebShop(data, human_goals, seed) if data else made_up(seed, human_goals).clone()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{named} {error}") from None
        n = len(self.shop.goals)
        test, dev = (500, 1000) if n >= 3000 else (round(n * 500 / 6910), round(n * 1000 / 6910))
        splits = {"test": range(test), "dev": range(test, test + dev), "train": range(test + dev, n)}
        if split not in splits:
            raise ValueError(f"--split {split}: WebShop has train, dev and test")
        if not all(splits.values()):
            raise ValueError(f"{self.source}: {n} goals are too few to split into train, dev and test")
        if winnable_only:
            splits = {name: [t for t in tasks if self.shop.winnable(t)] for name, tasks in splits.items()}
        self.tasks, self.train_tasks, self.dev_tasks = (list(splits[name]) for name in (split, "train", "dev"))
        self.families = [family_of(goal["instruction_text"]) for goal in self.shop.goals]
        wanted = set(families.split(",")) if families else set(self.families)
        if unknown := wanted - set(self.families):
            raise ValueError(f"--families {min(unknown)}: choose from {', '.join(sorted(set(self.families)))}")
        self.train_tasks = [task for task in self.train_tasks if self.families[task] in wanted]
        self.train_tasks += self._evenly(self.train_tasks) if even else []

    def _evenly(self, tasks, times=5):
        """`times` tasks for each option value that some want: most values are wanted by few, and those come again."""
        wanting = {}
        for task in tasks:
            options = self.shop.goals[task]["goal_options"]
            for value in options.values() if isinstance(options, dict) else options:
                wanting.setdefault(value.lower(), []).append(task)
        return [some[i * len(some) // times] for _, some in sorted(wanting.items()) for i in range(times)]

    @staticmethod
    def presets(data):
        """What `tiny` wants in train.py. One good skill alone seldom turns a loss into a win, so the score counts.

        In the real shop the skill that turns most losses into wins, to go back where an option is missing, hardly
        raises the mean score and takes many steps: there wins count beside the score. Estimates are noisier, too.
        """
        return {"tiny": {"utility": "both", "confirm": 16, "lr": 1e-4} if data else {"utility": "graded"}}

    @property
    def known(self):
        """What a shipped model must have seen: this catalogue, by its ids."""
        ids = " ".join(sorted(self.shop.products)).encode()
        return f"webshop, {len(self.shop.products)} products {crc32(ids):08x}" if self.real else self.describe()

    def describe(self):
        return f"webshop, {self.source}: {len(self.shop.products)} products, {len(self.shop.goals)} goals"

    def fingerprint(self):
        """Of all that decides what a page shows and what a purchase scores; not of the folder, nor of the split."""
        shop = self.shop
        products = [[getattr(product, name) for name in product.__slots__] for product in shop.products.values()]
        goals = [[goal[key] for key in ("asin", "instruction_text", "attributes", "price_upper", "goal_options")]
                 for goal in shop.goals]
        return digest([self.real, products, shop.prices, goals, sorted(shop.nouns.items())])

    def family(self, task):
        return self.families[task]

    def goal(self, task):
        return self.shop.goals[task]["instruction_text"]

    def name(self, task):
        return f"goal {task}"

    def start(self, task):
        return ShopGame(self.shop.clone(), task, "Not on this page." if self.real else "Same page.")

    def vocabulary(self):
        # Every id and price twice: a word that occurs once gets no token of its own. Of the real shop all that is
        # copied from a task or a page has to stand its ground against the rare words of titles.
        products = self.shop.products.values()
        texts = [f"[{p.asin.lower()}] {p.name} {p.price_tag}" for p in products] * 2
        if self.real:
            copied = {value for p in products for values in p.options.values() for value in values}
            copied |= {word for goal in self.shop.goals for word in (f"{goal['query']} with", *goal["attributes"])}
            texts += [*(f"{p.asin.lower()} {p.price_tag}" for p in products), *sorted(copied)] * 9
        return texts

    def player(self, game, task, skills, rng):
        given = game.shop, task, self.family(task), skills, rng, self.base
        return RealShopper(*given, reading=self.reading) if self.real else Shopper(*given)


class ShopGame:
    """One shopping trip. The page is the original's text with its clickable parts in brackets.

    missed: the reply to a click on what the page lacks. The original sends the same page again, where one can look.
    """

    def __init__(self, shop, task, missed="Same page."):
        self.shop, self.missed, self.done, self.won, self.score = shop, missed, False, False, 0.0
        self.task = shop.goals[task]["instruction_text"]
        self.observation = shop.reset(task)
        self.page = brackets(self.shop, self.observation)

    @property
    def commands(self):
        """The actions that do something now, for people who play; a search works on every page."""
        actions = self.shop.available_actions()  # the search page's one button does nothing without words
        return ["search[words]"] + [f"click[{text}]" for text in actions["clickables"] if not actions["has_search_bar"]]

    def step(self, action):
        click = re.match(ACTION, action)
        absent = click and click[1] == "click" and click[2].lower() not in self.shop.available_actions()["clickables"]
        self.observation, reward, self.done = self.shop.step(action)
        if self.done:
            self.score, self.won = reward, reward == 1.0
        before, self.page = self.page, brackets(self.shop, self.observation)
        # An option click leaves the page as it was; the growing chat need not hold it twice. A new page repeats the
        # task, as the original's pages do: a small model copies from near words better than from far ones.
        if self.page == before:
            return self.missed if absent else "Same page."
        return self.page if self.done else f"{self.page}\nTask: {self.task}"


def brackets(shop, observation):
    """A page for a language model: what can be clicked stands in [brackets], one line per product or option group.

    The released prompts list every clickable text a second time as an action; this takes .57 of the
    tokens (SmolLM2's, on real results and product pages).
    """
    parts = observation.split(" [SEP] ")
    if parts[0].startswith("Thank you"):  # ... Purchased, asin, B0..., options, {...}
        bought = parts.index("Purchased")
        return f"Bought {parts[bought + 2].lower()} with {parts[bought + 4]}."
    available = shop.available_actions()
    if available["has_search_bar"]:  # its one button does nothing without words
        return "The search page."
    parts = parts[parts.index("Instruction:") + 2:]  # the task stands in the first message already
    clickable, text, before = set(available["clickables"]), "", "option"
    for part in parts:
        product = part in shop.products
        part = shown(part) if before == "product" else part
        kind = "product" if product else "option" if part.lower() in clickable else "text"
        new_line = product or (kind == "text" and before == "option")
        text += ("\n" if new_line else " ") + (part if kind == "text" else f"[{part.lower()}]")
        before = kind
    # A product's id follows its line: a policy that has copied the line reads on and finds the id to click.
    return re.sub(r"(?m)^(\[\w{10}\]) (.+)$", r"\2 \1", text.strip())
