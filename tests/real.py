"""Real data for the tests that want it, and where this repository is. conftest.py imports this before all else."""

import os
from pathlib import Path

from worlds.alfworld import world as household

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"

# The real 1,000 products. The variable is taken away, or every other test would play on them, too, instead of in the
# made-up shop.
REAL_SHOP = Path(os.environ.pop("WEBSHOP_DATA", "") or ROOT.parent / "shared" / "webshop_data")
# The same for real ALFWorld games, and nobody's own download is played.
REAL_HOUSE = Path(os.environ.pop("ALFWORLD_DATA", "") or ROOT.parent / "shared" / "alfworld_data")
household.DOWNLOAD = str(GOLDEN)
