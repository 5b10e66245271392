#!/usr/bin/env bash
# Makes worlds/webshop/tiny from nothing: 38, 43 and 11 CPU minutes on one core. Result: $OUT/rare.
set -euo pipefail
cd "$(dirname "$0")/../../.."
OUT=${OUT:-runs}

# 1. The form of a transcript, and reading.
python -m tools.coldstart --env webshop --model tiny --steps 4000 --out "$OUT/reads"

# 2. Copying ids, prices and option values.
python -m tools.coldstart --env webshop --model "$OUT/reads" --steps 6000 --lr 1.5e-3 --muon 0.01 --copy 5 \
    --prompt 0 --seed 1 --out "$OUT/copies"

# 3. Rare habits: what a skill would say, the policy now seldom does unasked.
python -m tools.coldstart --env webshop --model "$OUT/copies" --base 0.03 --steps 2400 --lr 1e-3 --muon 0.005 \
    --copy 5 --prompt 0 --seed 7 --out "$OUT/rare"
