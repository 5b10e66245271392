#!/usr/bin/env bash
# Makes worlds/counter/tiny, whose words are this world's own. It does not begin from nothing: its layers are those of
# the made-up shop's tiny, which can copy. Each command can be stopped and resumed (--resume). Result: $OUT/obeys2.
set -euo pipefail
cd "$(dirname "$0")/../../.."
OUT=${OUT:-runs}
HOW=(--env counter --batch 6 --lr 1.5e-3 --muon 0.01 --copy 5 --prompt 0 --context 3072 --act_tokens 96
     --review_tokens 160 --top_k 4 --empty 0)

# 1. Reading and copying: thoughts repeat the skills in the prompt and what was said, half of the reviews of a refusal
#    quote the clerk.
python -m tools.coldstart "${HOW[@]}" --model tiny --like worlds/webshop/tiny --reading 0.7 --evidence 0.5 --steps 500 \
    --out "$OUT/reads"

# 2. Obeying. Reviews seldom quote the clerk: that is left to learn.
python -m tools.coldstart "${HOW[@]}" --model "$OUT/reads" --evidence 0.08 --steps 500 --seed 1 --out "$OUT/obeys"

# 3. More of it: a town's own rule comes before everybody's, the newer one before the older.
python -m tools.coldstart "${HOW[@]}" --model "$OUT/obeys" --evidence 0.08 --steps 400 --seed 2 --out "$OUT/obeys2"
