#!/usr/bin/env bash
# Makes worlds/counter/tiny, whose words are this world's own. It does not begin from nothing: its layers are those of
# the made-up shop's tiny, which can copy. Each command can be stopped and resumed (--resume). Result: $OUT/obeys.
set -euo pipefail
cd "$(dirname "$0")/../../.."
OUT=${OUT:-runs}

# 1. Reading and copying: thoughts repeat the skills in the prompt and what was said, half of the reviews quote the clerk.
python -m tools.coldstart --env counter --model tiny --like worlds/webshop/tiny --reading 0.7 --evidence 0.5 --steps 500 \
    --batch 6 --lr 1.5e-3 --muon 0.01 --copy 5 --prompt 0 --out "$OUT/reads"

# 2. Obeying: few exercises, most skills are of the task's own town.
python -m tools.coldstart --env counter --model "$OUT/reads" --reading 0.15 --evidence 0.3 --steps 500 --batch 6 \
    --lr 1.5e-3 --muon 0.01 --copy 5 --seed 1 --context 3072 --act_tokens 96 --review_tokens 160 --top_k 4 \
    --out "$OUT/obeys"
