"""WebShop: shop.py is the engine, world.py its tasks, catalogue.py made-up products, shopper.py the scripted player."""

from worlds.webshop.shop import BM25, WebShop, analyze

__all__ = ["BM25", "WebShop", "analyze"]
