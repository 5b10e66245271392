#!/usr/bin/env bash
# Makes worlds/webshop/tiny from nothing: 38, 43 and 11 CPU minutes on one core. Result: $OUT/rare/reference.
set -euo pipefail
cd "$(dirname "$0")/../../.."
OUT=${OUT:-runs}

# 1. The form of a transcript, and reading.
python train.py --env webshop --model tiny --cold_start 4000 --steps 0 --eval_every 0 --out "$OUT/reads"

# 2. Copying ids, prices and option values.
python train.py --env webshop --model "$OUT/reads/reference" --cold_start 6000 --sft_batch 2 --sft_lr 1.5e-3 \
    --sft_muon 0.01 --sft_copy 5 --seed 1 --context 3072 --act_tokens 96 --review_tokens 160 --steps 0 --eval_every 0 \
    --out "$OUT/copies"

# 3. Rare habits: what a skill would say, the policy now seldom does unasked.
python train.py --env webshop --model "$OUT/copies/reference" --base 0.03 --cold_start 2400 --sft_batch 2 --sft_lr 1e-3 \
    --sft_muon 0.005 --sft_copy 5 --seed 7 --context 3072 --act_tokens 96 --review_tokens 160 --steps 0 --eval_every 0 \
    --out "$OUT/rare"
