"""Real data for the tests that want it, and where this repository is. conftest.py imports this before all else."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"

# The real 1,000 products. The variable is taken away, or every other test would play on them, too, instead of in the
# made-up shop.
REAL_SHOP = Path(os.environ.pop("WEBSHOP_DATA", "") or ROOT.parent / "shared" / "webshop_data")
# The same for real ALFWorld games; a directory without any, else a developer's own download would be played.
REAL_HOUSE = Path(os.environ.get("ALFWORLD_DATA") or ROOT.parent / "shared" / "alfworld_data")
os.environ["ALFWORLD_DATA"] = str(GOLDEN)
