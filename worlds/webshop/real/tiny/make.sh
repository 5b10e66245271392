#!/usr/bin/env bash
# Makes worlds/webshop/real/tiny from nothing but DATA, the directory of WebShop's 1,000 products: its training goals, played by
# scripted shoppers. Each command can be stopped and resumed (--resume). Result: $OUT/real_apart.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
OUT=${OUT:-runs}
DATA=${DATA:?the directory with items_shuffle_1000.json}

# 1. The form of a transcript, reading, and the catalogue's words.
python -m tools.coldstart --env webshop --data "$DATA" --model tiny --steps 3000 --copy 2 --out "$OUT/real_reads"

# 2. Smaller steps, copied words first, rare habits: what a skill would say, the policy now seldom does unasked.
python -m tools.coldstart --env webshop --data "$DATA" --model "$OUT/real_reads" --base 0.1 --steps 1500 \
    --lr 1.5e-3 --muon 0.01 --copy 3 --prompt 0 --seed 1 --out "$OUT/real_rare"

# 3. More of it, and exercises in reading options.
python -m tools.coldstart --env webshop --data "$DATA" --model "$OUT/real_rare" --base 0.1 --reading 0.15 \
    --steps 3600 --lr 1.5e-3 --muon 0.01 --copy 3 --prompt 0 --seed 2 --out "$OUT/real_said"

# 4. More of it; by now shoppers make mistakes, which the transcripts show and training skips, and recover from them.
python -m tools.coldstart --env webshop --data "$DATA" --model "$OUT/real_said" --base 0.1 --reading 0.15 \
    --steps 3600 --lr 1.5e-3 --muon 0.01 --copy 3 --prompt 0 --seed 3 --out "$OUT/real_slips"

# 5. A new tokenizer, in which all that is copied is whole words, on the same layers; goals of rare option values, too.
python -m tools.coldstart --env webshop --data "$DATA" --model tiny --like "$OUT/real_slips" --even --base 0.1 \
    --reading 0.15 --steps 5400 --lr 1.5e-3 --muon 0.01 --copy 3 --prompt 0 --seed 4 --out "$OUT/real_even"

# 6. Vectors of words that had drifted to one are moved apart and no longer pushed: rare words can be copied now.
python -m tools.coldstart --env webshop --data "$DATA" --model tiny --like "$OUT/real_even" --spread --keep_absent --even \
    --base 0.1 --reading 0.15 --steps 3000 --lr 1.5e-3 --muon 0.01 --copy 3 --prompt 0 --seed 5 --out "$OUT/real_apart"
