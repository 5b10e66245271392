#!/usr/bin/env bash
# Makes worlds/alfworld/tiny from nothing, on generated games alone. Each command can be stopped and resumed (--resume).
# Result: $OUT/tiny.
set -euo pipefail
cd "$(dirname "$0")/../../.."
OUT=${OUT:-runs}

# 1. The form of a transcript, and reading: thoughts begin with exercises.
python -m tools.coldstart --env alfworld --model tiny --games 2000 --reading 0.5 --steps 3500 --copy 2 \
    --out "$OUT/reads"

# 2. Smaller steps, fewer exercises.
python -m tools.coldstart --env alfworld --model "$OUT/reads" --games 2000 --reading 0.15 --steps 1800 --lr 1.5e-3 \
    --muon 0.01 --prompt 0 --seed 1 --out "$OUT/plays"

# 3. The same again, with useful habits a little rarer: skills have more to say.
python -m tools.coldstart --env alfworld --model "$OUT/plays" --base 0.5 --games 2000 --reading 0.15 --steps 2000 \
    --lr 1.5e-3 --muon 0.01 --prompt 0 --seed 2 --out "$OUT/obeys"

# 4. Games whose tasks name rare words as often as common ones (a safe, a vase), by players who nearly always have the
#    useful habits; smaller steps.
python -m tools.coldstart --env alfworld --model "$OUT/obeys" --base 0.9 --even --games 2000 --reading 0.15 --steps 2000 \
    --lr 1e-3 --muon 0.007 --prompt 0 --seed 3 --out "$OUT/tiny"
