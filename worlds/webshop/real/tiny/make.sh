#!/usr/bin/env bash
# Makes worlds/webshop/real/tiny from nothing but DATA, the directory of WebShop's 1,000 products: its training goals, played by
# scripted shoppers. Each command can be stopped and resumed (--resume). Result: $OUT/real_slips/reference.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
OUT=${OUT:-runs}
DATA=${DATA:?the directory with items_shuffle_1000.json}

# 1. The form of a transcript, reading, and the catalogue's words.
python train.py --env webshop --data "$DATA" --model tiny --cold_start 3000 --sft_copy 2 --steps 0 --eval_every 0 \
    --out "$OUT/real_reads"

# 2. Smaller steps, copied words first, rare habits: what a skill would say, the policy now seldom does unasked.
python train.py --env webshop --data "$DATA" --model "$OUT/real_reads/reference" --base 0.1 --cold_start 1500 --sft_batch 2 \
    --sft_lr 1.5e-3 --sft_muon 0.01 --sft_copy 3 --seed 1 --context 3072 --act_tokens 96 --review_tokens 160 --steps 0 \
    --eval_every 0 --out "$OUT/real_rare"

# 3. More of it, and exercises in reading options.
python train.py --env webshop --data "$DATA" --model "$OUT/real_rare/reference" --base 0.1 --reading 0.15 --cold_start 3600 \
    --sft_batch 2 --sft_lr 1.5e-3 --sft_muon 0.01 --sft_copy 3 --seed 2 --context 3072 --act_tokens 96 --review_tokens 160 \
    --steps 0 --eval_every 0 --out "$OUT/real_said"

# 4. More of it; by now shoppers make mistakes, which the transcripts show and training skips, and recover from them.
python train.py --env webshop --data "$DATA" --model "$OUT/real_said/reference" --base 0.1 --reading 0.15 --cold_start 3600 \
    --sft_batch 2 --sft_lr 1.5e-3 --sft_muon 0.01 --sft_copy 3 --seed 3 --context 3072 --act_tokens 96 --review_tokens 160 \
    --steps 0 --eval_every 0 --out "$OUT/real_slips"
