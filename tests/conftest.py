"""Before torch is imported: threads that do not spin for long, as in train.py, or busy cores make tests 10x slower."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
